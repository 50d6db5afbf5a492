// SPDX-License-Identifier: MIT
/**
 * The integer layers of the priors (docs/FORMAT.md, "Prior arithmetic"), and the engine that walks them in plain
 * JavaScript: the reference of the faster one, and what takes over where that one fails.
 *
 * A code is an integer of 8 bits, a stream holds multiples of 2^-10. Layers check when they are loaded that no sum can
 * reach 2^24 units of its last bit, so every number here is exact. Arrays are [positions, channels], row by row.
 */
import { modelError } from "./errors.js";

export const SIGNED = -128, ACTIVE = -24; // the lowest code of a range of 256
export const LIMIT = 1024; // of a stream
const ROOM = 2 ** 14; // 2^24 units of 2^-10
const MAX_OFFSET = 2 ** 13; // of a vector of the quality or the pass
const CLASSES = 64;

/** @typedef {Record<string, import("./npz.js").Integers>} Arrays */
/** @typedef {{height: number, width: number}} Grid */
/**
 * What the priors ask an engine for: codes cross as bytes, 128 above their value.
 * @typedef {object} Engine
 * @property {(code: Uint8Array, grid: Grid) => Promise<{features: Uint8Array, means: Float32Array}>} base
 * @property {(number: number, inputs: StepInputs, grid: Grid) => Promise<StepOutputs>} step
 * @property {(code: Uint8Array, offset: Float32Array, where: Int32Array, grid: Grid) => Promise<Float32Array>} indices
 */
/**
 * @typedef {object} StepInputs
 * @property {Uint8Array} features [n, F]
 * @property {Uint8Array} known [n, 2 M] pairs of the contexts
 * @property {Uint8Array | null} before [n, N] what the step before gave as `after`
 * @property {Float32Array} quality [N]
 * @property {Float32Array} ratio [C], or [m, C] for the m places of the step
 * @property {Int32Array | null} where the places; null for all
 */
/** @typedef {{means: Float32Array, classes: Uint8Array, after: Uint8Array}} StepOutputs */

const INTEGERS = 1.5 * 2 ** 52; // doubles beside it are the integers, and sums round half to even
/** To the nearest integer, half to even. @param {number} x below 2^51 */
export const rint = x => x + INTEGERS - INTEGERS;

/** @param {number} x @param {number} low @param {number} high */
export const clip = (x, low, high) => (x < low ? low : x > high ? high : x);

/**
 * An integer array of a model whose entries lie within limits.
 * @param {Arrays} arrays @param {string} name @param {number} low @param {number} high
 * @param {number} [dimensions]
 */
export function integers(arrays, name, low, high, dimensions = 1) {
  const array = Object.hasOwn(arrays, name) ? arrays[name] : null;
  if (!array || array.shape.length !== dimensions) throw modelError(`the model's tables lack '${name}'`);
  for (const value of array.data) {
    if (!(value >= low && value <= high)) throw modelError(`the model's table '${name}' is out of range`);
  }
  return array;
}

/** @param {ArrayLike<number>} array */
const largest = array => Array.prototype.reduce.call(array, (most, value) => Math.max(most, Math.abs(value)), 0);

const unsafe = name => modelError(`the layer '${name}' could leave the range of exact sums: this model is not safe to use`);

class Linear {
  /** @param {Arrays} arrays @param {string} name @param {number} takes range of its codes @param {number} added */
  constructor(arrays, name, takes = SIGNED, added = LIMIT) {
    const weight = integers(arrays, `${name}.weight`, -64, 63, 2);
    const bias = integers(arrays, `${name}.bias`, -(2 ** 24), 2 ** 24).data;
    const shift = integers(arrays, `${name}.shift`, 0, 10).data;
    this.outputs = weight.shape[0];
    this.inputs = weight.shape[1];
    this.takes = takes;
    this.weight = weight.data;
    this.bias = Float64Array.from(bias, value => value / 1024);
    this.scale = Float64Array.from(shift, value => 2 ** -value);
    const most = Math.max(-takes, 255 + takes);
    for (let o = 0; o < this.outputs; o++) {
      let sum = 0;
      for (let i = 0; i < this.inputs; i++) sum += Math.abs(this.weight[o * this.inputs + i]);
      if (!(sum * most * this.scale[o] + Math.abs(this.bias[o]) + added < ROOM)) throw unsafe(name);
    }
  }

  /** Codes [n, I] -> stream [n, O]. @param {Int16Array} codes */
  run(codes) {
    const { inputs, outputs, weight } = this;
    const count = codes.length / inputs, out = new Float32Array(count * outputs);
    for (let n = 0; n < count; n++) {
      const start = n * inputs;
      for (let o = 0, at = 0; o < outputs; o++) {
        let sum = 0;
        for (let i = 0; i < inputs; i++) sum += weight[at++] * codes[start + i];
        out[n * outputs + o] = sum * this.scale[o] + this.bias[o];
      }
    }
    return out;
  }

  /** The codes of a stream that this layer wants: one for each channel, or pairs. */
  take(stream, channels) {
    return this.inputs === channels ? coded(stream, this.takes) : pairs(stream, channels, this.takes);
  }
}

class Depthwise {
  /** @param {Arrays} arrays @param {string} name */
  constructor(arrays, name) {
    const weight = integers(arrays, `${name}.weight`, -64, 63, 3);
    this.weight = weight.data;
    this.channels = weight.shape[0];
    this.bias = integers(arrays, `${name}.bias`, -(2 ** 24), 2 ** 24).data;
    this.scale = Float64Array.from(integers(arrays, `${name}.shift`, 0, 16).data, value => 2 ** -value);
    for (let c = 0; c < this.channels; c++) {
      let sum = 0;
      for (let i = 0; i < 9; i++) sum += Math.abs(this.weight[9 * c + i]);
      if (!(231 * sum + Math.abs(this.bias[c]) < 2 ** 24)) throw unsafe(name);
    }
  }

  /** @param {Int16Array} codes active ones [h w, C] @param {Grid} grid @returns {Int16Array} signed ones */
  run(codes, { height, width }) {
    const { channels, weight } = this, out = new Int16Array(codes.length);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < channels; c++) {
          let sum = this.bias[c];
          for (let dy = -1; dy <= 1; dy++) {
            for (let dx = -1; dx <= 1; dx++) {
              if (y + dy < 0 || y + dy >= height || x + dx < 0 || x + dx >= width) continue;
              sum += weight[9 * c + 3 * dy + dx + 4] * codes[((y + dy) * width + x + dx) * channels + c];
            }
          }
          out[(y * width + x) * channels + c] = clip(rint(sum * this.scale[c]), -128, 127);
        }
      }
    }
    return out;
  }
}

class Block {
  /** @param {Arrays} arrays @param {string} name */
  constructor(arrays, name) {
    this.enter = new Linear(arrays, `${name}.enter`);
    this.depthwise = new Depthwise(arrays, `${name}.depthwise`);
    this.leave = new Linear(arrays, `${name}.leave`);
    const wide = Object.hasOwn(arrays, `${name}.expand.weight`);
    this.expand = wide ? new Linear(arrays, `${name}.expand`) : null;
    this.reduce = wide ? new Linear(arrays, `${name}.reduce`, ACTIVE) : null;
  }

  /** A stream [h w, C] -> the same, or of the places `where` alone. */
  run(x, grid, where = null) {
    const channels = this.leave.outputs;
    let inner = this.depthwise.run(coded(leaky(this.enter.run(this.enter.take(x, channels))), ACTIVE), grid);
    if (where) [x, inner] = [gathered(x, where, channels), gathered(inner, where, this.depthwise.channels)];
    x = added(x, this.leave.run(inner));
    if (!this.expand || !this.reduce) return x;
    const wide = leaky(this.expand.run(this.expand.take(x, channels)));
    return added(x, this.reduce.run(this.reduce.take(wide, this.expand.outputs)));
  }
}

/** @param {Float32Array} stream @param {number} low */
function coded(stream, low) {
  return Int16Array.from(stream, value => clip(rint(value), low, low + 255));
}

/** Pairs of codes: of each position first all that `coded` gives, then what these leave, in eighths. */
function pairs(stream, channels, low) {
  const out = new Int16Array(2 * stream.length);
  for (let i = 0; i < stream.length; i++) {
    const at = Math.floor(i / channels) * channels + i;
    out[at] = clip(rint(stream[i]), low, low + 255);
    out[at + channels] = clip(rint(8 * (stream[i] - out[at])), low, low + 255);
  }
  return out;
}

/** In place: max(x, x / 8). */
function leaky(stream) {
  for (let i = 0; i < stream.length; i++) if (stream[i] < 0) stream[i] /= 8;
  return stream;
}

/** In place: a stream and what is added to it, within the limits. */
function added(x, more) {
  for (let i = 0; i < x.length; i++) more[i] = clip(x[i] + more[i], -LIMIT, LIMIT);
  return more;
}

/** The rows at some places. */
export function gathered(rows, where, channels) {
  const out = new rows.constructor(where.length * channels);
  where.forEach((place, n) => out.set(rows.subarray(place * channels, (place + 1) * channels), n * channels));
  return out;
}

/** @param {Int16Array} codes signed ones */
export const stored = codes => Uint8Array.from(codes, code => code + 128);
/** @param {Uint8Array} bytes */
const codesOf = bytes => Int16Array.from(bytes, byte => byte - 128);

/** Numbers of a table of multiples of 2^-10, rows of equal length. @returns {Float32Array} */
export const streams = (arrays, name, limit) =>
  Float32Array.from(integers(arrays, name, -limit, limit, 2).data, value => value / 1024);

/** How many layers there are of a name that a number follows. */
export const counted = (arrays, start) =>
  new Set(Object.keys(arrays).filter(name => name.startsWith(start)).map(name => name.slice(start.length).split(".")[0])).size;

/** @implements {Engine} */
export class Plain {
  /** @param {Arrays} arrays */
  constructor(arrays) {
    const numbered = start => Array.from({ length: counted(arrays, start) }, (_, i) => `${start}${i}`);
    this._enter = new Linear(arrays, "prior.enter");
    this._blocks = numbered("prior.blocks.").map(name => new Block(arrays, name));
    this._mean = new Linear(arrays, "prior.base_mean");
    this._steps = numbered("prior.steps.").map(name => {
      const offset = largest(integers(arrays, `${name}.quality`, -(2 ** 23), 2 ** 23, 2).data) / 1024;
      return {
        join: new Linear(arrays, `${name}.join`, SIGNED, offset),
        block1: new Block(arrays, `${name}.block1`),
        block2: new Block(arrays, `${name}.block2`),
        out: new Linear(arrays, `${name}.out`, SIGNED, MAX_OFFSET / 2),
      };
    });
    const passes = largest(integers(arrays, "base_prior.passes", -(2 ** 23), 2 ** 23, 2).data) / 1024;
    this._indicesEnter = new Linear(arrays, "base_prior.enter", SIGNED, passes);
    this._spread = new Depthwise(arrays, "base_prior.spread");
    this._indicesBlocks = numbered("base_prior.blocks.").map(name => new Block(arrays, name));
    this._logits = new Linear(arrays, "base_prior.out", SIGNED, 0);
  }

  async base(code, grid) {
    let x = this._enter.run(codesOf(code)).map(value => clip(value, -LIMIT, LIMIT));
    for (const block of this._blocks) x = block.run(x, grid);
    const channels = this._enter.outputs;
    const features = this._steps[0].join.inputs === channels ? coded(x, SIGNED) : pairs(x, channels, SIGNED);
    return { features: stored(features), means: this._mean.run(this._mean.take(x, channels)) };
  }

  async step(number, { features, known, before, quality, ratio, where }, grid) {
    const { join, block1, block2, out } = this._steps[number];
    const count = grid.height * grid.width, channels = join.outputs;
    const parts = [[features, features.length / count, features.length / count]];
    const seen = join.inputs - parts[0][1] - (before ? channels : 0);
    if (seen) parts.push([known, known.length / count, seen]);
    if (before) parts.push([before, channels, channels]);
    const codes = new Int16Array(count * join.inputs);
    for (let n = 0, at = 0; n < count; n++) {
      for (const [bytes, stride, width] of parts) {
        for (let i = 0; i < width; i++) codes[at++] = bytes[n * stride + i] - 128;
      }
    }
    let x = join.run(codes);
    for (let i = 0; i < x.length; i++) x[i] = clip(x[i] + quality[i % channels], -LIMIT, LIMIT);
    x = block1.run(x, grid);
    const after = stored(coded(x, SIGNED));
    const places = where ?? Int32Array.from({ length: count }, (_, n) => n);
    const y = out.run(out.take(block2.run(x, grid, places), channels));
    const half = out.outputs / 2, total = places.length * half;
    const means = new Float32Array(total), classes = new Uint8Array(total);
    for (let i = 0; i < total; i++) {
      const at = Math.floor(i / half) * half + i;
      means[i] = y[at];
      classes[i] = clip(rint(y[at + half] + ratio[i % ratio.length]), 0, CLASSES - 1);
    }
    return { means, classes, after };
  }

  async indices(code, offset, where, grid) {
    const channels = this._indicesEnter.outputs;
    let x = this._indicesEnter.run(codesOf(code));
    for (let i = 0; i < x.length; i++) x[i] += offset[i % channels];
    x = Float32Array.from(this._spread.run(coded(leaky(x), ACTIVE), grid));
    this._indicesBlocks.forEach((block, i) => (x = block.run(x, grid, i === this._indicesBlocks.length - 1 ? where : null)));
    return this._logits.run(this._logits.take(x, channels));
  }
}
