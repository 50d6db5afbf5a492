// SPDX-License-Identifier: MIT
/**
 * The priors: what is known -> frequencies of base indices; means, classes and steps of latents. All in exact integers,
 * as docs/FORMAT.md says. Latents are in units of 2^-14, held in float32, which has every integer up to their limit.
 */
import { modelError } from "./errors.js";
import { clip, counted, integers, rint, streams } from "./layers.js";

const TOTAL = 2 ** 24;
const LATENT_CLIP = 2 ** 24;
const OFFSETS = 2 ** 23;
const STEP_HALO = 2; // latents around a tile that its steps see, from the base layer alone
const PLACE_LIMIT = 16;
const PASSES = [[0, 0], [1, 1], [0, 1], [1, 0]]; // row and column, each 0 even or 1 odd
const ROWS = 100; // of the tables, per tune

/** @typedef {import("./layers.js").Grid} Grid */
/** @typedef {{x0: number, y0: number, x1: number, y1: number}} Rect half open */

/** Places of every second row and column. @param {Grid} grid @param {number[]} first */
function quarter({ height, width }, [row, column]) {
  const places = [];
  for (let y = row; y < height; y += 2) for (let x = column; x < width; x += 2) places.push(y * width + x);
  return Int32Array.from(places);
}

/** Places of a half of the checkerboard. @param {Grid} grid @param {number} half */
function checkerboard({ height, width }, half) {
  const places = [];
  for (let y = 0; y < height; y++) for (let x = (y + half) % 2; x < width; x += 2) places.push(y * width + x);
  return Int32Array.from(places);
}

export class Prior {
  /**
   * @param {import("./layers.js").Arrays} arrays
   * @param {import("./layers.js").Engine} engine
   * @param {import("./coder.js").ClassTables} tables
   */
  constructor(arrays, engine, tables) {
    this.engine = engine;
    this.tables = tables;
    const codes = integers(arrays, "codes", -128, 127, 2);
    this.words = codes.shape[0];
    this.codeBytes = codes.shape[1];
    this.codes = Uint8Array.from(codes.data, code => code + 128);
    this.passes = streams(arrays, "base_prior.passes", OFFSETS);
    this.exp2 = integers(arrays, "base_prior.exp2", 1, TOTAL).data;
    const ones = (name, low, high) => integers(arrays, `prior.${name}`, low, high).data;
    const rows = (name, low, high) => integers(arrays, `prior.${name}`, low, high, 2).data;
    this.ratio = streams(arrays, "prior.ratio", 2 ** 22);
    this.stepSize = rows("step_size", 1, 2 ** 30);
    this.baseScale = ones("base_scale", 0, 2 ** 28);
    this.contextScale = ones("context_scale", 0, 2 ** 22);
    this.latents = this.baseScale.length;
    this.halo = counted(arrays, "prior.blocks.") + STEP_HALO;
    this.rows = this.stepSize.length / this.latents;
    this.steps = this._steps(arrays, ones("chunks", 1, 2 ** 16), ones("halves", 1, 2));
    if (Object.hasOwn(arrays, "prior.activity.weight")) {
      this.activity = {
        weight: integers(arrays, "prior.activity.weight", -64, 63, 2).data,
        bias: ones("activity.bias", -TOTAL, TOTAL)[0] / 1024,
        scale: 2 ** -ones("activity.shift", 0, 10)[0],
        strength: ones("strength", -(2 ** 28), 2 ** 28),
        factors: ones("factors", 1, 2 ** 20),
      };
      if (this.activity.factors.length !== 2 * PLACE_LIMIT + 1 || this.activity.strength.length !== this.rows) {
        throw modelError("the tables of the model's steps by place do not fit together");
      }
    }
    if (this.exp2.length !== 256 || this.rows % ROWS || this.ratio.length !== this.stepSize.length) {
      throw modelError("the tables of the model's priors do not fit together");
    }
  }

  _steps(arrays, chunks, halves) {
    const steps = [];
    let start = 0;
    chunks.forEach((chunk, place) => {
      for (let half = 0; half < halves[place]; half++) {
        const name = `prior.steps.${steps.length}`;
        const scale = integers(arrays, `${name}.mean_scale`, 0, 2 ** 28).data;
        const quality = streams(arrays, `${name}.quality`, OFFSETS);
        if (scale.length !== chunk) throw modelError("the tables of the model's refinement prior do not fit together");
        steps.push({ start, count: chunk, half: halves[place] === 2 ? half : null, scale, quality });
      }
      start += chunk;
    });
    if (start !== this.latents || steps.length !== counted(arrays, "prior.steps.")) {
      throw modelError("the tables of the model's refinement prior do not fit together");
    }
    return steps;
  }

  /** The row of the tables. @param {string[]} tunes of the model @param {string} tune @param {number} quality */
  row(tunes, tune, quality) {
    if (!tunes.includes(tune)) throw modelError(`the model has no tune '${tune}', only ${tunes.join(" and ")}`);
    return ROWS * tunes.indexOf(tune) + quality - 1;
  }

  /**
   * One tile's base layer.
   * @param {import("./coder.js").RangeDecoder} coder @param {Grid} grid
   * @returns {Promise<Int32Array>} indices [h w]
   */
  async readBase(coder, grid) {
    const count = grid.height * grid.width, width = this.codeBytes;
    const indices = new Int32Array(count), codes = new Uint8Array(count * width).fill(128);
    const channels = this.passes.length / PASSES.length;
    const starts = new Uint32Array(this.words + 1);
    for (let pass = 0; pass < PASSES.length; pass++) {
      const where = quarter(grid, PASSES[pass]);
      if (!where.length) continue;
      const offset = this.passes.slice(pass * channels, (pass + 1) * channels);
      const logits = await this.engine.indices(codes, offset, where, grid);
      for (let n = 0; n < where.length; n++) {
        this._starts(logits.subarray(n * this.words, (n + 1) * this.words), starts);
        const index = coder.symbol(starts, this.words);
        indices[where[n]] = index;
        codes.set(this.codes.subarray(index * width, (index + 1) * width), where[n] * width);
      }
    }
    coder.finish("base layer");
    return indices;
  }

  /** Logits -> where the weights of each index begin. @param {Float32Array} logits @param {Uint32Array} starts */
  _starts(logits, starts) {
    const { words, exp2 } = this;
    let first = 0;
    for (let k = 1; k < words; k++) if (logits[k] > logits[first]) first = k;
    const most = logits[first];
    let sum = 0, best = Infinity;
    for (let k = 0; k < words; k++) {
      const below = Math.floor(256 * (most - logits[k]));
      if (below < best) {
        best = below;
        first = k;
      }
      const value = below < 24 * 256 + 256 ? exp2[below & 255] >>> (below >> 8) : 0;
      starts[k + 1] = value;
      sum += value;
    }
    const room = TOTAL - words, scale = Math.floor((TOTAL * room) / sum);
    let left = room;
    for (let k = 0; k < words; k++) left -= starts[k + 1] = Math.floor((starts[k + 1] * scale) / TOTAL);
    starts[first + 1] += left;
    for (let k = 0; k < words; k++) starts[k + 1] += starts[k] + 1;
  }

  /**
   * What base indices say of the latents.
   * @param {Int32Array} indices [h w] @param {Grid} grid
   * @returns {Promise<{features: Uint8Array, means: Float32Array}>} [h w, F], and [h w, M] (2^-14)
   */
  async base(indices, grid) {
    const width = this.codeBytes, codes = new Uint8Array(indices.length * width);
    indices.forEach((index, n) => codes.set(this.codes.subarray(index * width, (index + 1) * width), n * width));
    const { features, means } = await this.engine.base(codes, grid);
    const scale = Float64Array.from(this.baseScale, value => value / 256), latents = this.latents;
    for (let i = 0, c = 0; i < means.length; i++, c = c + 1 === latents ? 0 : c + 1) {
      means[i] = clip(rint(means[i] * scale[c]), -LATENT_CLIP, LATENT_CLIP);
    }
    return { features, means };
  }

  /** Place classes of all positions, or null where the step is the same everywhere. */
  _places(features, count, row) {
    const strength = this.activity?.strength[row];
    if (!this.activity || !strength) return null;
    const { weight, bias, scale } = this.activity, width = features.length / count;
    return Int32Array.from({ length: count }, (_, n) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += weight[i] * (features[n * width + i] - 128);
      return clip(rint(((sum * scale + bias) * strength * 8) / 2 ** 14), -PLACE_LIMIT, PLACE_LIMIT);
    });
  }

  /**
   * One tile's refinement.
   * @param {import("./coder.js").RangeDecoder} coder
   * @param {Int32Array} indices [h' w'] of the base layer in and around the tile
   * @param {Grid} grid of these
   * @param {Rect} tile where it lies in them
   * @param {number} row of the tables
   * @param {((indices: Int32Array, places: Int32Array, step: any) => void)} [watch] sees what is read, for tests
   * @returns {Promise<Float32Array>} latents [h w, M] (2^-14)
   */
  async readRefinement(coder, indices, grid, tile, row, watch) {
    const seen = {
      x0: Math.max(0, tile.x0 - STEP_HALO), y0: Math.max(0, tile.y0 - STEP_HALO),
      x1: Math.min(grid.width, tile.x1 + STEP_HALO), y1: Math.min(grid.height, tile.y1 + STEP_HALO),
    };
    const inner = { x0: tile.x0 - seen.x0, y0: tile.y0 - seen.y0, x1: tile.x1 - seen.x0, y1: tile.y1 - seen.y0 };
    const base = await this.base(indices, grid);
    const area = { height: seen.y1 - seen.y0, width: seen.x1 - seen.x0 }, count = area.height * area.width;
    const features = cropped(base.features, grid, seen), means = cropped(base.means, grid, seen);
    const latents = cropped(means, area, inner), width = inner.x1 - inner.x0;
    const inside = new Int32Array(count).fill(-1); // the place in the tile of a position
    for (let y = inner.y0, n = 0; y < inner.y1; y++) for (let x = inner.x0; x < inner.x1; x++) inside[y * area.width + x] = n++;
    const places = this._places(features, count, row);
    const known = new Uint8Array(count * 2 * this.latents).fill(128);
    let before = null;
    for (const [number, step] of this.steps.entries()) {
      const where = step.half === null ? null : checkerboard(area, step.half);
      const positions = where ?? Int32Array.from({ length: count }, (_, n) => n);
      const predicted = await this._predict(number, { features, known, before, where }, positions, places, row, area);
      before = predicted.after;
      const kept = positions.map((_, n) => n).filter(n => inside[positions[n]] >= 0);
      const classes = new Uint8Array(kept.length * step.count);
      kept.forEach((n, k) => classes.set(predicted.classes.subarray(n * step.count, (n + 1) * step.count), k * step.count));
      const read = this.tables.read(coder, classes);
      watch?.(read, kept.map(n => inside[positions[n]]), step);
      kept.forEach((n, k) => {
        const at = k * step.count, place = positions[n];
        this._restore(step, row, places ? places[place] : null, read, at, classes, predicted.means, n * step.count,
          means, place * this.latents, latents, inside[place] * this.latents, known);
      });
    }
    coder.finish("refinement layer");
    return latents;
  }

  async _predict(number, inputs, positions, places, row, area) {
    const { start, count, quality } = this.steps[number], channels = quality.length / this.rows;
    let ratio = this.ratio.slice(row * this.latents + start, row * this.latents + start + count);
    if (places) {
      const level = ratio;
      ratio = new Float32Array(positions.length * count);
      positions.forEach((place, n) => {
        for (let c = 0; c < count; c++) ratio[n * count + c] = level[c] - 0.75 * places[place];
      });
    }
    const offset = quality.slice(row * channels, (row + 1) * channels);
    return this.engine.step(number, { ...inputs, quality: offset, ratio }, area);
  }

  /** Latents of the indices of one position, and what later steps see of them. */
  _restore(step, row, place, read, at, classes, outputs, from, means, base, latents, to, known) {
    const { shrink } = this.tables, { start, count, scale } = step;
    const factor = place === null || !this.activity ? 0 : this.activity.factors[place + PLACE_LIMIT];
    for (let c = 0; c < count; c++) {
      const channel = start + c, mean = means[base + channel];
      let value = mean + rint((outputs[from + c] * scale[c]) / 256);
      const index = read[at + c];
      if (index) {
        let size = this.stepSize[row * this.latents + channel];
        if (factor) size = Math.max(1, rint((size * factor) / 2 ** 14));
        const back = Math.floor((size * shrink[3 * classes[at + c] + Math.min(Math.abs(index), 2)]) / 256);
        value += index * size - Math.sign(index) * back;
      }
      value = clip(value, -LATENT_CLIP, LATENT_CLIP);
      latents[to + channel] = value;
      const above = ((value - mean) * this.contextScale[channel]) / TOTAL;
      const high = clip(rint(above), -128, 127), pair = 2 * (base + channel);
      known[pair] = high + 128;
      known[pair + 1] = clip(rint(8 * (above - high)), -128, 127) + 128;
    }
  }
}

/** The rows at the places of a rectangle. @param {Grid} grid @param {Rect} rect */
export function cropped(rows, grid, rect) {
  const channels = rows.length / (grid.height * grid.width), width = rect.x1 - rect.x0;
  const out = new rows.constructor(width * (rect.y1 - rect.y0) * channels);
  for (let y = rect.y0; y < rect.y1; y++) {
    const start = (y * grid.width + rect.x0) * channels;
    out.set(rows.subarray(start, start + width * channels), (y - rect.y0) * width * channels);
  }
  return out;
}
