// SPDX-License-Identifier: MIT
/**
 * The range decoder and the static tables of the scale classes (docs/FORMAT.md), in doubles.
 *
 * A decoder keeps `range` and `point - low`. Both have up to 64 bits: they are held as two numbers of 32 bits. Products
 * of up to 64 bits are put together from parts below 2^53, which doubles hold exactly.
 */
import { damagedError, modelError } from "./errors.js";

const TOTAL = 2 ** 24; // of the weights of an alphabet
const GUIDE_SHIFT = 14;
const TWO_32 = 2 ** 32;
const MAX_INDEX = 2 ** 20;
const LEFT_OVER = 2 ** 33 - 1;

export class RangeDecoder {
  /** @param {Uint8Array} payload whole words, known to be intact */
  constructor(payload) {
    this.words = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    this.position = 0;
    this.rangeHigh = this.rangeLow = TWO_32 - 1;
    this.high = this._word();
    this.low = this._word();
    this.escapes = 8 + Math.floor((8 * payload.length) / 6); // each costs 6 bits or more: a bound on hostile work
  }

  _word() {
    const at = this.position;
    this.position += 4;
    // of a valid payload no word is read but the one behind the end; a third would mean that it says nothing
    if (at > this.words.byteLength + 4) throw damagedError("the compressed data is too short for what it would say");
    return at + 4 <= this.words.byteLength ? this.words.getUint32(at, true) : 0;
  }

  /**
   * Where the point lies in the alphabet, 0 to 2^24 - 1; `_take` must follow.
   */
  _quantile() {
    const scale = this.rangeHigh * 256 + Math.floor(this.rangeLow / TOTAL); // 40 bits
    let quantile = Math.floor((this.high * TWO_32 + this.low) / scale); // may be one too large or too small
    let rest = this._rest(scale, quantile);
    if (rest < 0) rest = this._rest(scale, --quantile);
    else if (rest >= scale) rest = this._rest(scale, ++quantile);
    if (quantile >= TOTAL) throw damagedError("the compressed data cannot have been written by this model");
    this.scale = scale;
    this.rest = rest;
    return quantile;
  }

  /** point - low - scale * count: exact wherever it is below 2^53. @param {number} scale @param {number} count */
  _rest(scale, count) {
    const upper = Math.floor(scale / 2 ** 20); // 20 bits, and 20 below them
    const highest = upper * count; // of 2^20; 44 bits
    const lowest = (scale - upper * 2 ** 20) * count;
    const high = Math.floor(highest / 4096);
    return (this.high - high) * TWO_32 + (this.low - (highest - high * 4096) * 2 ** 20 - lowest);
  }

  /** Takes the symbol that begins `below` below the quantile and has this weight. */
  _take(below, weight) {
    const { scale } = this, upper = Math.floor(scale / 2 ** 20), lower = scale - upper * 2 ** 20;
    // scale * below + rest and scale * weight, as two numbers of 32 bits
    const highest = upper * below, high = Math.floor(highest / 4096);
    const low = (highest - high * 4096) * 2 ** 20 + lower * below + this.rest, carry = Math.floor(low / TWO_32);
    this.high = high + carry;
    this.low = low - carry * TWO_32;
    const widest = upper * weight, wide = Math.floor(widest / 4096);
    const narrow = (widest - wide * 4096) * 2 ** 20 + lower * weight, more = Math.floor(narrow / TWO_32);
    this.rangeHigh = wide + more;
    this.rangeLow = narrow - more * TWO_32;
    if (this.rangeHigh === 0) {
      this.rangeHigh = this.rangeLow;
      this.rangeLow = 0;
      this.high = this.low;
      this.low = this._word();
    }
  }

  /** A symbol of n alike ones. @param {number} size */
  uniform(size) {
    const weight = Math.floor(TOTAL / size);
    const quantile = this._quantile();
    const symbol = Math.min(Math.floor(quantile / weight), size - 1);
    this._take(quantile - symbol * weight, symbol === size - 1 ? TOTAL - symbol * weight : weight);
    return symbol;
  }

  /**
   * A symbol by where each begins.
   * @param {Uint32Array} starts [n + 1] sums of the weights before each symbol, and 2^24
   * @param {number} size n
   */
  symbol(starts, size) {
    const quantile = this._quantile();
    let [low, high] = [0, size];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= quantile) low = middle;
      else high = middle;
    }
    this._take(quantile - starts[low], starts[low + 1] - starts[low]);
    return low;
  }

  /**
   * Indices of one class, in place.
   * @param {Int32Array} out @param {Int32Array} where places in `out` @param {number} from @param {number} to of `where`
   * @param {Table} table
   */
  indices(out, where, from, to, table) {
    const { starts, limit, guide } = table;
    const escaped = [];
    for (let i = from; i < to; i++) {
      const quantile = this._quantile();
      let symbol = guide[quantile >> GUIDE_SHIFT];
      while (starts[symbol + 1] <= quantile) symbol++;
      this._take(quantile - starts[symbol], starts[symbol + 1] - starts[symbol]);
      const value = symbol - limit;
      if (value > limit) escaped.push(where[i]);
      else out[where[i]] = value;
    }
    for (const place of escaped) out[place] = this._escape(limit);
  }

  /** @param {number} limit */
  _escape(limit) {
    if (--this.escapes < 0) throw damagedError("the compressed data holds more escapes than its length allows");
    const negative = this.uniform(2);
    const length = this.uniform(32);
    if (length < 1 || length > 21) throw damagedError("the compressed data holds an impossible index");
    const excess = 2 ** (length - 1) + (length > 1 ? this.uniform(2 ** (length - 1)) : 0);
    if (limit + excess > MAX_INDEX) throw damagedError("the compressed data holds an impossible index");
    return negative ? -limit - excess : limit + excess;
  }

  /** Throws if data is left over. @param {string} layer for the error's sentence */
  finish(layer) {
    if (this.position < this.words.byteLength || this.high * TWO_32 + this.low >= LEFT_OVER) {
      throw damagedError(`data is left over behind the ${layer}`);
    }
  }
}

/**
 * Symbols 0 .. 2 limit are indices, then the escape. `guide`: by the first bits of a quantile, the first symbol that can
 * be meant.
 * @typedef {{limit: number, starts: Uint32Array, guide: Uint32Array}} Table
 */

export class ClassTables {
  /** @param {Record<string, import("./npz.js").Integers>} arrays of the model */
  constructor(arrays) {
    const limits = arrays["tables.limits"]?.data, counts = arrays["tables.counts"]?.data;
    this.shrink = arrays["tables.shrink"]?.data; // [64 * 3]
    if (limits?.length !== 64 || this.shrink?.length !== 192 || !counts) throw modelError(MALFORMED);
    let at = 0;
    /** @type {(Table | null)[]} null for classes that are not coded */
    this.classes = Array.from(limits, limit => {
      if (limit < 0 || limit > MAX_INDEX) throw modelError(MALFORMED);
      if (!limit) return null;
      const size = 2 * limit + 2;
      const starts = new Uint32Array(size + 1);
      for (let i = 0; i < size; i++) {
        if (!(counts[at] >= 0)) throw modelError(MALFORMED);
        starts[i + 1] = starts[i] + counts[at++] + 1;
      }
      if (starts[size] !== TOTAL) throw modelError(MALFORMED);
      const guide = new Uint32Array(TOTAL >> GUIDE_SHIFT);
      for (let i = 0, symbol = 0; i < guide.length; i++) {
        while (starts[symbol + 1] <= i << GUIDE_SHIFT) symbol++;
        guide[i] = symbol;
      }
      return { limit, starts, guide };
    });
    if (at !== counts.length || this.shrink.some(value => value < 0 || value > 127)) throw modelError(MALFORMED);
  }

  /**
   * Reads the indices of one step by their classes.
   * @param {RangeDecoder} coder @param {Uint8Array} classes 0 to 63
   * @returns {Int32Array} as many
   */
  read(coder, classes) {
    const ends = new Int32Array(65);
    for (let i = 0; i < classes.length; i++) ends[classes[i] + 1]++;
    for (let i = 0; i < 64; i++) ends[i + 1] += ends[i];
    const next = ends.slice(), order = new Int32Array(classes.length), out = new Int32Array(classes.length);
    for (let i = 0; i < classes.length; i++) order[next[classes[i]]++] = i;
    this.classes.forEach((table, number) => {
      if (table) coder.indices(out, order, ends[number], ends[number + 1], table);
    });
    return out;
  }
}

const MALFORMED = "the model's frequency tables are malformed";
