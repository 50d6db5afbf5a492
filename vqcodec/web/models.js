// SPDX-License-Identifier: MIT
/** A model: its files, held to their SHA-256, and what reads with them. */
import { ClassTables } from "./coder.js";
import { Trusted } from "./engines.js";
import { modelError } from "./errors.js";
import { Plain } from "./layers.js";
import { shortcutOf } from "./look.js";
import { readArrays } from "./npz.js";
import { Prior } from "./prior.js";
import { sha256 } from "./sha256.js";

const CACHE = "vqcodec-models";
const TUNES = ["psnr", "eye"];

/**
 * @typedef {object} Card what model.json says
 * @property {string} id
 * @property {string[]} [tunes]
 * @property {number} anchors
 * @property {number} synthesis_halo
 * @property {Record<string, string>} answers
 * @property {Record<string, {bytes: number, sha256: string}>} files
 */

export class Model {
  /**
   * @param {Card} card
   * @param {(name: string) => Promise<Uint8Array>} read the verified bytes of a file
   * @param {import("./layers.js").Arrays} arrays
   * @param {import("./session.js").Runtime | null} runtime null: indices alone, in plain JavaScript
   * @param {(message: string) => void} warn
   */
  constructor(card, read, arrays, runtime, warn) {
    this.card = card;
    this.tunes = card.tunes ?? TUNES.slice(0, 1);
    this.halo = card.synthesis_halo;
    this.runtime = runtime;
    this.tables = new ClassTables(arrays);
    this.engine = runtime ? new Trusted(arrays, read, card.answers, runtime, warn) : new Plain(arrays);
    this.prior = new Prior(arrays, this.engine, this.tables);
    if (this.prior.rows !== 100 * this.tunes.length) throw modelError("the model's tables do not fit its tunes");
    this._synthesis = /** @type {Promise<any> | null} */ (null);
    this._shortcut = /** @type {Promise<Float32Array> | null} */ (null);
    this._read = read;
  }

  /**
   * The model that a file names.
   * @param {string} checksum 8 hexadecimal digits
   * @param {(name: string, digest: string) => Promise<Uint8Array>} fetched the bytes of a file of this model, held to
   *   their SHA-256 where it is not "" (`verified`)
   * @param {import("./session.js").Runtime | null} runtime
   * @param {(message: string) => void} [warn]
   */
  static async load(checksum, fetched, runtime, warn = console.warn) {
    const card = cardOf(await fetched("model.json", ""));
    if (!card.files["tables.npz"].sha256.startsWith(checksum)) {
      throw modelError(`the model in the folder ${checksum} is another one`);
    }
    const read = name => fetched(name, card.files[name].sha256);
    return new Model(card, read, await readArrays(await read("tables.npz")), runtime, warn);
  }

  /** Loads the synthesis; the first look is faster where it is asked for early. */
  prepare() {
    if (!this._synthesis) {
      const loading = this._read("synthesis.onnx").then(graph => this.runtime?.session(graph, { optimise: true }));
      loading.catch(() => (this._synthesis = null)); // a failed download may be tried again
      this._synthesis = loading;
    }
    return this._synthesis;
  }

  /**
   * Weights of the anchors for the synthesis: [R + 1].
   * @param {string} tune @param {number} quality @param {boolean} coarse the base layer alone
   */
  weights(tune, quality, coarse) {
    const { anchors } = this.card, all = new Float32Array(anchors * this.tunes.length + 1);
    if (coarse) all[all.length - 1] = 1;
    else {
      const place = (Math.max(0, quality - 2) / 98) * (anchors - 1), start = anchors * this.tunes.indexOf(tune);
      for (let a = 0; a < anchors; a++) all[start + a] = Math.max(0, 1 - Math.abs(place - a));
    }
    return all;
  }

  /**
   * Latents -> picture.
   * @param {Float32Array} latents [M, h, w] @param {number} height h @param {number} width w @param {Float32Array} weights
   * @returns {Promise<Float32Array>} [3, 16 h, 16 w], nominally in [0, 1]
   */
  async synthesise(latents, height, width, weights) {
    const session = await this.prepare();
    const feeds = { y: ["float32", latents, [1, this.prior.latents, height, width]], hat: ["float32", weights, [1, weights.length]] };
    const { x: { data: x } } = await /** @type {any} */ (this.runtime).run(session, feeds);
    if (x?.length !== 3 * 256 * height * width) throw modelError("the model's synthesis gives another size than it must");
    return x;
  }

  /** See look.js. */
  shortcut() {
    if (!this._shortcut) {
      this._shortcut = shortcutOf(this);
      this._shortcut.catch(() => (this._shortcut = null));
    }
    return this._shortcut;
  }
}

/**
 * The bytes, if they are what the card says.
 * @param {Uint8Array} bytes @param {string} name @param {string} digest in hexadecimal
 */
export async function verified(bytes, name, digest) {
  if ((await sha256(bytes)) === digest) return bytes;
  throw modelError(`the model file ${name} is damaged: its sha256 is not the one in model.json`);
}

/** A model's files by HTTP; kept in the browser's Cache API, where there is one. */
export class Served {
  /** @param {string} models the folder of all models @param {string} checksum */
  constructor(models, checksum) {
    this.folder = `${models}${checksum}/`;
    this.checksum = checksum;
    /** The file `name`; see `Model.load`. */
    this.read = (/** @type {string} */ name, /** @type {string} */ digest) => this._read(name, digest);
  }

  async _read(name, digest) {
    const cache = await globalThis.caches?.open(CACHE).catch(() => null); // private windows have none
    const url = this.folder + name, key = digest ? `${url}?sha256=${digest}` : url;
    const kept = await cache?.match(key).then(found => found?.arrayBuffer());
    if (kept && digest) {
      const bytes = await verified(new Uint8Array(kept), name, digest).catch(() => null);
      if (bytes) return bytes;
    }
    let response = null;
    try {
      response = await fetch(url);
    } catch (error) {
      if (kept) return new Uint8Array(kept); // offline: the card as it was
      throw modelError(`the model file ${url} cannot be fetched (${/** @type {Error} */ (error).message})`);
    }
    if (!response.ok) {
      if (digest) throw modelError(`the model file ${url} cannot be fetched (status ${response.status})`);
      throw modelError(`this file was written with the model ${this.checksum}, which is not there (${url}: status ${response.status})`);
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (digest) await verified(bytes, name, digest);
    await cache?.put(key, new Response(bytes)).catch(() => {}); // it may be full
    return bytes;
  }
}

/** @param {Uint8Array} bytes @returns {Card} */
function cardOf(bytes) {
  try {
    const card = JSON.parse(new TextDecoder().decode(bytes));
    const files = ["tables.npz", "synthesis.onnx"].every(name => /^[0-9a-f]{64}$/.test(card.files[name].sha256));
    const within = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;
    const tunes = card.tunes === undefined || (card.tunes.length && card.tunes.every(tune => TUNES.includes(tune)));
    const answers = card.answers && Object.values(card.answers).every(answer => typeof answer === "string");
    if (files && tunes && answers && within(card.anchors, 2, 1024) && within(card.synthesis_halo, 0, 64)) return card;
  } catch {
    // it is said below
  }
  throw modelError("model.json is not a model card");
}
