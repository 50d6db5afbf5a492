// SPDX-License-Identifier: MIT
/**
 * .vqc file -> picture, tile by tile, while its bytes arrive:
 *
 *     container -> range decoder + priors -> indices -> latents -> synthesis (with halos) -> picture
 *
 * The base layer stands first in the file: it can be shown before the rest is there.
 */
import { RangeDecoder } from "./coder.js";
import { ColourLayer } from "./colour.js";
import { checkPixels, checkSize, placeOf, readHeader, readMetadata, sectionBody } from "./container.js";
import { VqcError, damagedError, usageError } from "./errors.js";
import { Patches } from "./patches.js";
import { readAlpha } from "./png.js";
import { enlarged, quarter } from "./look.js";
import { cropped } from "./prior.js";

export const MAX_PIXELS = 2 ** 27;
const STRIDE = 16; // pixels between latents

/** @typedef {import("./prior.js").Rect} Rect */
/** @typedef {{x: number, y: number, width: number, height: number}} Region */
/**
 * @typedef {object} Part of a picture
 * @property {"base" | "picture"} stage the first look, or as it stays
 * @property {number} x of its corner, in pixels of the area that is decoded
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {Uint8ClampedArray} data RGBA
 */
/**
 * @typedef {object} Decoded
 * @property {number} width
 * @property {number} height
 * @property {Uint8ClampedArray} data RGBA, not multiplied with alpha; in the colour space of `icc`, or sRGB
 * @property {import("./container.js").Header} header
 * @property {Uint8Array} [icc]
 * @property {Uint8Array} [exif]
 * @property {Uint8Array} [xmp]
 */

/** Bytes that arrive in pieces. */
export class Arriving {
  constructor() {
    this.bytes = new Uint8Array(0);
    this.whole = false;
    this.error = null;
    this._room = new Uint8Array(1 << 16);
    this._wake = () => {};
  }

  /** @param {Uint8Array} bytes @returns {Arriving} of which all is there */
  static of(bytes) {
    return Object.assign(new Arriving(), { bytes, whole: true });
  }

  /** @param {Uint8Array} piece */
  push(piece) {
    const size = this.bytes.length + piece.length;
    if (size > this._room.length) {
      const room = new Uint8Array(Math.max(size, 2 * this._room.length));
      room.set(this.bytes);
      this._room = room;
    }
    this._room.set(piece, this.bytes.length);
    this.bytes = this._room.subarray(0, size);
    this._wake();
  }

  /** No more will come, because of an error where there is one. @param {Error} [error] */
  end(error) {
    this.error = error ?? null;
    this.whole = true;
    this._wake();
  }

  /** Waits for so many bytes; fewer are there where the file has no more. @param {number} size */
  async need(size) {
    while (this.bytes.length < size && !this.whole) await new Promise(resolve => (this._wake = () => resolve(null)));
    if (this.error) throw this.error;
  }
}

/** @param {Arriving} source @returns {Promise<import("./container.js").Header>} */
export async function headerOf(source) {
  for (;;) {
    try {
      return readHeader(source.bytes);
    } catch (error) {
      if (!(/** @type {any} */ (error).cutOff) || source.whole) {
        if (source.error) throw source.error;
        throw error;
      }
    }
    await source.need(source.bytes.length + 1);
  }
}

/**
 * @param {Arriving} source
 * @param {(checksum: string) => Promise<import("./models.js").Model>} modelOf
 * @param {object} [options]
 * @param {Region} [options.region] what is wanted of the picture; all of it otherwise
 * @param {number} [options.maxPixels] largest width x height to accept
 * @param {boolean} [options.coarse] restore the picture from the base layer alone: faster, for small views
 * @param {boolean} [options.preview] show the base layer first; otherwise only while the rest has not arrived
 * @param {(header: import("./container.js").Header) => void} [options.onHeader]
 * @param {(part: Part) => void} [options.onPart]
 * @param {{aborted: boolean, reason?: any}} [options.signal]
 * @returns {Promise<Decoded>}
 */
export async function decode(source, modelOf, options = {}) {
  const header = await headerOf(source);
  checkPixels(header, options.maxPixels ?? MAX_PIXELS);
  options.onHeader?.(header);
  const area = areaOf(header, options.region);
  checkSize(header, source.bytes.length, source.whole);
  const model = await modelOf(header.model);
  const picture = new Picture(source, header, model, area, options);
  return picture.decode();
}

/** @param {import("./container.js").Header} header @param {Region} [region] @returns {Rect} */
function areaOf({ width, height }, region) {
  if (!region) return { x0: 0, y0: 0, x1: width, y1: height };
  const sides = [region.x, region.y, region.width, region.height];
  const [x1, y1] = [region.x + region.width, region.y + region.height];
  if (!sides.every(Number.isInteger) || Math.min(region.x, region.y) < 0 || Math.min(region.width, region.height) < 1 || x1 > width || y1 > height) {
    throw usageError(
      `the region ${sides.join(",")} does not lie inside the picture, which is ${width} x ${height} pixels ` +
        "(a region is x, y, width, height)",
    );
  }
  return { x0: region.x, y0: region.y, x1, y1 };
}

/** @param {Rect} a @param {Rect} b @returns {Rect} */
const common = (a, b) => ({
  x0: Math.max(a.x0, b.x0), y0: Math.max(a.y0, b.y0), x1: Math.min(a.x1, b.x1), y1: Math.min(a.y1, b.y1),
});
/** @param {Rect} r @param {number} by @returns {Rect} */
const grown = (r, by) => ({ x0: r.x0 - by, y0: r.y0 - by, x1: r.x1 + by, y1: r.y1 + by });
/** @param {Rect} r @param {{x0: number, y0: number}} outer @returns {Rect} */
const within = (r, outer) => ({ x0: r.x0 - outer.x0, y0: r.y0 - outer.y0, x1: r.x1 - outer.x0, y1: r.y1 - outer.y0 });
/** The latents of some pixels. @param {Rect} pixels @returns {Rect} */
const latentsOf = ({ x0, y0, x1, y1 }) => ({
  x0: Math.floor(x0 / STRIDE), y0: Math.floor(y0 / STRIDE), x1: Math.ceil(x1 / STRIDE), y1: Math.ceil(y1 / STRIDE),
});
/** @param {Rect} r */
const area = r => (r.x1 - r.x0) * (r.y1 - r.y0);
/** @param {Rect} r */
const sizeOf = r => ({ width: r.x1 - r.x0, height: r.y1 - r.y0 });

export class Picture {
  /** @param {Arriving} source @param {import("./container.js").Header} header @param {import("./models.js").Model} model @param {Rect} area @param {any} options of `decode` */
  constructor(source, header, model, area, options = {}) {
    this.source = source;
    this.header = header;
    this.model = model;
    this.area = area;
    this.options = options;
    this.row = model.prior.row(model.tunes, header.tune, header.quality);
    this.side = header.tileSide / STRIDE;
    this.field = { x0: 0, y0: 0, x1: Math.ceil(header.width / STRIDE), y1: Math.ceil(header.height / STRIDE) };
    this.base = new Int32Array(this.field.x1 * this.field.y1);
    this.known = new Set(); // tiles whose base layer is read
    this.layer = /** @type {ColourLayer | null} */ (null);
    this.latents = new Map(); // of tiles, as long as something needs them
    this.sections = new Map(header.sections.map(section => [`${section.kind} ${section.tile}`, section]));
    this.patches = /** @type {Patches | null} */ (null);
  }

  /** @returns {Promise<Decoded>} */
  async decode() {
    const { header, source, model, options } = this, size = sizeOf(this.area);
    model.prepare();
    await this.readColour();
    const data = new Uint8ClampedArray(4 * size.width * size.height);
    await this._readBases();
    if (header.refinement && !options.coarse && options.onPart && (options.preview || source.bytes.length < header.fileBytes)) {
      await this._look(options.onPart);
    }
    await this._readPatches();
    await this._show(!!options.coarse, part => {
      for (let y = 0; y < part.height; y++) {
        const row = part.data.subarray(4 * y * part.width, 4 * (y + 1) * part.width);
        data.set(row, 4 * ((part.y + y) * size.width + part.x));
      }
      options.onPart?.(part);
    });
    await source.need(Infinity);
    checkSize(header, source.bytes.length, true);
    const metadata = await readMetadata(source.bytes, header);
    if (header.alpha) await this._setAlpha(data);
    return { ...size, data, header, ...metadata };
  }

  async _setAlpha(data) {
    const { header, area } = this, width = area.x1 - area.x0;
    const alpha = await readAlpha(await this._section("alpha channel"), header.width, header.height);
    for (let y = area.y0, at = 3; y < area.y1; y++) {
      for (let x = 0; x < width; x++, at += 4) data[at] = alpha[y * header.width + area.x0 + x];
    }
  }

  /** The verified bytes of a section, when they have arrived. */
  async _section(kind, tile = -1) {
    const { header, source } = this;
    const section = this.sections.get(`${kind} ${tile}`);
    await source.need(section.offset + section.size + 4);
    checkSize(header, source.bytes.length, source.whole);
    await this._go();
    return sectionBody(source.bytes, header, section);
  }

  /** Lets messages in, and stops where the picture is no longer wanted. */
  async _go() {
    const { signal } = this.options;
    if (signal) await new Promise(resolve => setTimeout(resolve));
    if (signal?.aborted) throw signal.reason ?? new DOMException("aborted", "AbortError");
  }

  async readColour() {
    if (!this.sections.has("colour layer -1")) return;
    this.layer = new ColourLayer(await this._section("colour layer"), this.model.tables, this.header);
  }

  /** What is kept without loss; every tile without a base layer must be. */
  async _readPatches() {
    if (!this.sections.has("patches -1")) return;
    this.patches = new Patches(await this._section("patches"), this.header);
    for (let tile = 0; tile < this.header.columns * this.header.rows; tile++) {
      if (this.isKept(tile) && !this.patches.covers(this._pixels(tile))) {
        throw damagedError(`${placeOf(this.header, tile)}: it has neither a base layer nor patches for all of it`);
      }
    }
  }

  /** Whether nothing of a tile is coded, because all of it is kept without loss; its indices and latents are 0. */
  isKept(index) {
    return this.sections.has("patches -1") && this.sections.get(`base layer ${index}`).size === 0;
  }

  /** Where a tile lies, in pixels. @param {number} index @returns {Rect} */
  _pixels(index) {
    const { x0, y0, x1, y1 } = this.tile(index), { width, height } = this.header;
    return { x0: x0 * STRIDE, y0: y0 * STRIDE, x1: Math.min(x1 * STRIDE, width), y1: Math.min(y1 * STRIDE, height) };
  }

  /** @param {number} index @returns {Rect} of latents */
  tile(index) {
    const { columns } = this.header, x = (index % columns) * this.side, y = Math.floor(index / columns) * this.side;
    return common({ x0: x, y0: y, x1: x + this.side, y1: y + this.side }, this.field);
  }

  /** The tiles in which some latents lie. @param {Rect} rect */
  tilesIn(rect) {
    const inside = common(rect, this.field), found = [];
    for (let y = Math.floor(inside.y0 / this.side); y * this.side < inside.y1; y++) {
      for (let x = Math.floor(inside.x0 / this.side); x * this.side < inside.x1; x++) found.push(y * this.header.columns + x);
    }
    return found;
  }

  /** The latents that the area needs of the base layer, and those of its pixels. */
  _wanted() {
    return latentsOf(this.area);
  }

  async _readBases() {
    const { halo, prior } = this.model;
    const tiles = this.tilesIn(grown(this._wanted(), halo)).map(index => grown(this.tile(index), prior.halo));
    for (const index of new Set(tiles.flatMap(rect => this.tilesIn(rect)).sort((a, b) => a - b))) await this.readBase(index);
  }

  /** @param {number} index of a tile */
  async readBase(index) {
    if (this.known.has(index) || this.isKept(index)) return;
    const payload = await this._section("base layer", index), tile = this.tile(index), size = sizeOf(tile);
    const found = await this._named(index, () => this.model.prior.readBase(new RangeDecoder(payload), size));
    for (let y = 0; y < size.height; y++) {
      this.base.set(found.subarray(y * size.width, (y + 1) * size.width), (tile.y0 + y) * this.field.x1 + tile.x0);
    }
    this.known.add(index);
  }

  /** Says where in the picture damage was found. */
  async _named(index, work) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof VqcError) || error.code !== 4) throw error;
      throw damagedError(`${placeOf(this.header, index)}: ${error.message}`);
    }
  }

  /**
   * The latents of a tile [h w, M], in units of 2^-14.
   * @param {number} index @param {boolean} coarse from the base layer alone
   * @param {any} [watch] see `Prior.readRefinement`
   */
  async readTile(index, coarse, watch) {
    const tile = this.tile(index), { width, height } = sizeOf(tile);
    if (this.isKept(index)) return new Float32Array(width * height * this.model.prior.latents);
    const around = common(grown(tile, this.model.prior.halo), this.field);
    for (const near of this.tilesIn(around)) await this.readBase(near);
    const grid = sizeOf(this.field), indices = cropped(this.base, grid, around);
    const place = within(tile, around), size = sizeOf(around);
    if (coarse) return cropped((await this.model.prior.base(indices, size)).means, size, place);
    const payload = await this._section("refinement layer", index);
    return this._named(index, () =>
      this.model.prior.readRefinement(new RangeDecoder(payload), indices, size, place, this.row, watch),
    );
  }

  /** Restores the area tile by tile, from the top. @param {boolean} coarse @param {(part: Part) => void} show */
  async _show(coarse, show) {
    const { header, model } = this, basic = coarse || !header.refinement;
    const weights = model.weights(header.tune, header.quality, basic);
    this.latents.clear();
    for (const index of this.tilesIn(this._wanted())) {
      const inner = common(this._pixels(index), this.area);
      const seen = common(grown(latentsOf(inner), model.halo), this.field), size = sizeOf(seen);
      let planes = null;
      if (!this.isKept(index)) {
        for (const near of this.tilesIn(seen)) {
          if (!this.latents.has(near)) this.latents.set(near, await this.readTile(near, basic));
        }
        for (const done of this.latents.keys()) if (this.tile(done).y1 <= seen.y0) this.latents.delete(done);
        planes = await model.synthesise(this._window(seen), size.height, size.width, weights);
      }
      const data = planes ? this._samples(planes, seen, inner, coarse) : new Uint8ClampedArray(4 * area(inner)).fill(255);
      await this.patches?.paste(data, inner);
      this._grey(data);
      show({ stage: coarse ? "base" : "picture", x: inner.x0 - this.area.x0, y: inner.y0 - this.area.y0, ...sizeOf(inner), data });
    }
    this.latents.clear();
  }

  /** The first look: the base layer by the synthesis' linear shortcut alone, enlarged. @param {(part: Part) => void} show */
  async _look(show) {
    const shortcut = await this.model.shortcut();
    for (const index of this.tilesIn(this._wanted())) {
      if (this.isKept(index)) continue; // nothing of it is there yet
      const tile = this.tile(index), inner = common(this._pixels(index), this.area), size = sizeOf(inner);
      const small = quarter(await this.readTile(index, true), sizeOf(tile), shortcut);
      const data = enlarged(small, sizeOf(tile), { ...within(inner, { x0: tile.x0 * STRIDE, y0: tile.y0 * STRIDE }), ...size });
      this._grey(data);
      show({ stage: "base", x: inner.x0 - this.area.x0, y: inner.y0 - this.area.y0, ...size, data });
    }
  }

  _grey(data) {
    if (!this.header.gray) return;
    for (let i = 0; i < data.length; i += 4) data.fill((data[i] + data[i + 1] + data[i + 2]) / 3, i, i + 3);
  }

  /** Latents of a window as the synthesis wants them: [M, h, w]. */
  _window(seen) {
    const count = this.model.prior.latents, { width, height } = sizeOf(seen);
    const out = new Float32Array(count * width * height);
    for (const index of this.tilesIn(seen)) {
      const tile = this.tile(index), part = common(tile, seen), latents = this.latents.get(index);
      for (let y = part.y0; y < part.y1; y++) {
        for (let x = part.x0; x < part.x1; x++) {
          const from = ((y - tile.y0) * (tile.x1 - tile.x0) + x - tile.x0) * count;
          const to = (y - seen.y0) * width + x - seen.x0;
          for (let c = 0; c < count; c++) out[c * width * height + to] = latents[from + c] / 16384;
        }
      }
    }
    return out;
  }

  /** The samples of a part of what was restored, RGBA. */
  _samples(planes, seen, inner, coarse) {
    const stride = (seen.x1 - seen.x0) * STRIDE, size = stride * (seen.y1 - seen.y0) * STRIDE;
    const { width, height } = sizeOf(inner), left = inner.x0 - seen.x0 * STRIDE, top = inner.y0 - seen.y0 * STRIDE;
    const rgb = [0, 1, 2].map(c => {
      const out = new Float32Array(width * height);
      for (let y = 0; y < height; y++) {
        const start = c * size + (top + y) * stride + left;
        out.set(planes.subarray(start, start + width), y * width);
      }
      return out;
    });
    if (!coarse) this.layer?.apply(rgb, { x: inner.x0, y: inner.y0, width, height });
    const data = new Uint8ClampedArray(4 * width * height), [red, green, blue] = rgb;
    for (let i = 0, at = 0; i < red.length; i++, at += 4) {
      data[at] = 255 * red[i];
      data[at + 1] = 255 * green[i];
      data[at + 2] = 255 * blue[i];
      data[at + 3] = 255;
    }
    return data;
  }
}
