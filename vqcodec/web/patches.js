// SPDX-License-Identifier: MIT
/**
 * The patches of a file (docs/FORMAT.md): blocks of 32 x 32 pixels, or all of the picture, as lossless WebP, pasted over
 * what is restored. The browser unpacks the WebP; nothing may change its samples on the way, so no colour is managed.
 */
import { damagedError, modelError } from "./errors.js";

const SIDE = 32;
const MAX_WIDTH = 8192, MAX_HEIGHT = 4096; // of a piece
const WHOLE = 0, BITS = 1, RUNS = 2, WITH_AREAS = 2;
const MAX_AREAS = 4096;

const damaged = reason => damagedError(`the patches are damaged (${reason})`);

/** Reads numbers of the section. */
class Fields {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.position = 1;
  }

  varint() {
    for (let count = 0, value = 0; count < 5 && this.position < this.bytes.length; count++) {
      const byte = this.bytes[this.position++];
      value += (byte & 127) * 2 ** (7 * count);
      if (byte < 128) {
        if ((count && !byte) || value >= 2 ** 32) break;
        return value;
      }
    }
    throw damaged("a number in it is not valid");
  }

  /** @param {number} size @param {string} what */
  take(size, what) {
    if (this.position + size > this.bytes.length) throw damaged(`${what} is cut off`);
    return this.bytes.subarray(this.position, (this.position += size));
  }
}

export class Patches {
  /**
   * No pixels are unpacked yet.
   * @param {Uint8Array} payload @param {{width: number, height: number}} picture in pixels
   */
  constructor(payload, { width, height }) {
    this.size = { width, height };
    this.rows = Math.ceil(height / SIDE);
    this.columns = Math.ceil(width / SIDE);
    if (!payload.length) throw damaged("it is empty");
    const fields = new Fields(payload);
    this.whole = payload[0] === WHOLE;
    if (payload[0] > RUNS + WITH_AREAS) throw damaged("it is of a kind that there is not");
    if (this.whole && width > MAX_WIDTH) throw damaged("the picture is too wide to be kept as it lies");
    /** Places of blocks on the sheets, one more than theirs; 0: not kept. */
    this.places = new Uint32Array(this.rows * this.columns);
    const kept = this.whole ? 0 : this._readMap(fields, payload[0] > RUNS ? payload[0] - WITH_AREAS : payload[0]);
    this.areas = payload[0] > RUNS ? this._readAreas(fields) : [];
    this.sheets = this.whole ? this._bands() : this._sheets(kept);
    this.pieces = this.sheets.map((_, number) => {
      const last = number === this.sheets.length - 1;
      return fields.take(last ? payload.length - fields.position : fields.varint(), "a piece");
    });
    /** @type {Map<number, Promise<Uint8ClampedArray>>} */
    this.unpacked = new Map();
  }

  /** @param {Fields} fields @param {number} kind @returns {number} of blocks that are kept */
  _readMap(fields, kind) {
    const { places, columns } = this, count = places.length;
    if (kind === BITS) {
      const bits = fields.take(Math.ceil(count / 8), "its map");
      for (let i = 0; i < 8 * bits.length; i++) {
        const bit = (bits[i >> 3] >> (7 - (i & 7))) & 1;
        if (i < count) places[i] = bit;
        else if (bit) throw damaged("its map goes on behind the picture");
      }
    } else {
      for (let done = 0, bit = 0; done < count; bit ^= 1) {
        const length = fields.varint();
        if (length > count - done || (!length && (done || bit))) throw damaged("its map has runs that do not fit");
        for (const end = done + length; done < end; done++) places[done] = bit ^ (done < columns ? 0 : places[done - columns]);
      }
    }
    let kept = 0;
    for (let i = 0; i < count; i++) if (places[i]) places[i] = ++kept;
    if (!kept) throw damaged("its map is empty");
    return kept;
  }

  /** @param {Fields} fields @returns {{x0: number, y0: number, x1: number, y1: number, colour: Uint8Array}[]} */
  _readAreas(fields) {
    const count = fields.varint(), areas = [], { width, height } = this.size;
    if (!count || count > MAX_AREAS) throw damaged("there cannot be so many areas");
    let top = 0, room = width * height, colour = /** @type {Uint8Array | null} */ (null);
    while (areas.length < count) {
      top += fields.varint();
      const [x0, across, down] = [fields.varint(), fields.varint(), fields.varint()];
      const fresh = fields.position < fields.bytes.length ? fields.take(1, "an area")[0] : 2;
      if (fresh === 1 && fields.position + 3 <= fields.bytes.length) colour = fields.take(3, "an area");
      else if (fresh || !colour) throw damaged("an area has no colour");
      room -= across * down;
      if (!across || !down || x0 + across > width || top + down > height || room < 0) throw damaged("an area does not fit");
      areas.push({ x0, y0: top, x1: x0 + across, y1: top + down, colour });
    }
    return areas;
  }

  _bands() {
    const { width, height } = this.size;
    return Array.from({ length: Math.ceil(height / MAX_HEIGHT) }, (_, n) => ({
      width, height: Math.min(MAX_HEIGHT, height - n * MAX_HEIGHT),
    }));
  }

  /** @param {number} kept */
  _sheets(kept) {
    this.across = Math.min(kept, this.columns, MAX_WIDTH / SIDE);
    this.most = this.across * (MAX_HEIGHT / SIDE);
    return Array.from({ length: Math.ceil(kept / this.most) }, (_, n) => ({
      width: this.across * SIDE, height: Math.ceil(Math.min(this.most, kept - n * this.most) / this.across) * SIDE,
    }));
  }

  /** Whether every pixel of a rectangle is kept. @param {import("./prior.js").Rect} pixels */
  covers({ x0, y0, x1, y1 }) {
    if (this.whole) return true;
    for (let y = Math.floor(y0 / SIDE); y * SIDE < y1; y++) {
      for (let x = Math.floor(x0 / SIDE); x * SIDE < x1; x++) if (!this.places[y * this.columns + x]) return false;
    }
    return true;
  }

  /**
   * Pastes what lies in a part of the picture over its pixels, in place.
   * @param {Uint8ClampedArray} data RGBA @param {import("./prior.js").Rect} window where they lie in the picture
   */
  async paste(data, window) {
    const { x0, y0, x1, y1 } = window, width = x1 - x0;
    const copy = (piece, stride, from, x, y, count) =>
      data.set(piece.subarray(4 * from, 4 * (from + count)), 4 * ((y - y0) * width + x - x0));
    if (this.whole) {
      for (let y = y0; y < y1; y++) {
        const piece = await this._piece(Math.floor(y / MAX_HEIGHT));
        copy(piece, 0, (y % MAX_HEIGHT) * this.size.width + x0, x0, y, width);
      }
      return;
    }
    for (let row = Math.floor(y0 / SIDE); row * SIDE < y1; row++) {
      for (let column = Math.floor(x0 / SIDE); column * SIDE < x1; column++) {
        const place = this.places[row * this.columns + column] - 1;
        if (place < 0) continue;
        const sheet = Math.floor(place / this.most), within = place % this.most, stride = this.across * SIDE;
        const piece = await this._piece(sheet);
        const [left, right] = [Math.max(column * SIDE, x0), Math.min(column * SIDE + SIDE, x1)];
        for (let y = Math.max(row * SIDE, y0); y < Math.min(row * SIDE + SIDE, y1); y++) {
          const line = Math.floor(within / this.across) * SIDE + y - row * SIDE;
          const from = line * stride + (within % this.across) * SIDE + left - column * SIDE;
          copy(piece, stride, from, left, y, right - left);
        }
      }
    }
    for (const area of this.areas) {
      for (let y = Math.max(area.y0, y0); y < Math.min(area.y1, y1); y++) {
        for (let x = Math.max(area.x0, x0); x < Math.min(area.x1, x1); x++) data.set(area.colour, 4 * ((y - y0) * width + x - x0));
      }
    }
  }

  /** The pixels of a piece; the last two are remembered. @param {number} number */
  _piece(number) {
    let piece = this.unpacked.get(number);
    if (!piece) {
      piece = unpack(this.pieces[number], this.sheets[number]);
      this.unpacked.set(number, piece);
      if (this.unpacked.size > 2) this.unpacked.delete(/** @type {number} */ (this.unpacked.keys().next().value));
    }
    return piece;
  }
}

/**
 * The pixels of a lossless WebP, which must be opaque and of this size.
 * @param {Uint8Array} payload of the chunk VP8L @param {{width: number, height: number}} size
 */
async function unpack(payload, { width, height }) {
  if (payload.length < 5 || payload[0] !== 0x2f) throw damaged("not lossless WebP");
  // 14 bits each, width - 1 and height - 1; then whether there is alpha, and the version: both 0
  const head = new DataView(payload.buffer, payload.byteOffset).getUint32(1, true);
  if (head !== (width - 1) + (height - 1) * 2 ** 14) throw damaged(`they are not RGB of ${width} x ${height} pixels`);
  if (typeof OffscreenCanvas === "undefined") throw modelError("this file has patches, which only a browser can unpack here");
  const padded = payload.length + (payload.length & 1), file = new Uint8Array(20 + padded), view = new DataView(file.buffer);
  ["RIFF", "", "WEBP", "VP8L"].forEach((name, n) => [...name].forEach((letter, i) => (file[4 * n + i] = letter.charCodeAt(0))));
  view.setUint32(4, 12 + padded, true);
  view.setUint32(16, payload.length, true);
  file.set(payload, 20);
  try {
    const raw = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const bitmap = await createImageBitmap(new Blob([file], { type: "image/webp" }), /** @type {ImageBitmapOptions} */ (raw));
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context?.drawImage(bitmap, 0, 0);
    bitmap.close();
    return /** @type {OffscreenCanvasRenderingContext2D} */ (context).getImageData(0, 0, width, height).data;
  } catch {
    throw damaged("not lossless WebP");
  }
}
