// SPDX-License-Identifier: MIT
/**
 * Who computes the priors' networks: ONNX Runtime's 8-bit kernels, or the plain layers that are their reference. A graph
 * must give the reference's answer to a small question, whose SHA-256 stands in model.json, before it is trusted.
 */
import { Plain } from "./layers.js";
import { sha256 } from "./sha256.js";
import { joined } from "./zlib.js";

const BASE = "prior-base", INDICES = "prior-indices", STEP = "prior-step-";
const LAYERS = { [BASE]: ["prior.enter.", "prior.blocks.", "prior.base_mean."], [INDICES]: ["base_prior."] };
const PROBED = { height: 3, width: 4, where: BigInt64Array.of(1n, 3n, 5n, 7n, 9n, 11n) }; // the grid of the small question
const KINDS = { float32: "f4", uint8: "u1" };

/**
 * The weights that a graph leaves to the tables, one after the other, as its operators want them: [I, O], [C, 1, 3, 3].
 * @param {import("./layers.js").Arrays} arrays @param {string} graph
 */
function weightsOf(arrays, graph) {
  const layers = LAYERS[graph] ?? [`prior.steps.${graph.slice(STEP.length)}.`];
  const names = Object.keys(arrays).filter(name => name.endsWith(".weight") && layers.some(layer => name.startsWith(layer)));
  return joined(
    names.map(name => {
      const { data, shape: [outputs, inputs, ...sides] } = arrays[name], turned = new Uint8Array(data.length);
      if (sides.length) turned.set(data);
      else for (let o = 0, at = 0; o < outputs; o++) for (let i = 0; i < inputs; i++) turned[i * outputs + o] = data[at++];
      return turned;
    }),
  );
}

/** Codes for the small question; every other one is an extreme. @param {number} size */
const probe = size =>
  Uint8Array.from({ length: size }, (_, n) => {
    const number = Math.imul(n, 2654435761 | 0) >>> 11;
    return number & 1024 ? 255 * ((number >> 9) & 1) : number & 255;
  });

/** The small question, from what a graph says of its inputs: codes, zeros, and every other place. */
function question({ inputMetadata }) {
  const { height, width, where } = PROBED;
  return Object.fromEntries(
    inputMetadata.map(({ name, type, shape }) => {
      const channels = Number(shape.at(-1));
      if (type === "uint8") return [name, [type, probe(height * width * channels), [1, height, width, channels]]];
      if (name === "where") return [name, [type, where, [where.length]]];
      return [name, [type, new Float32Array(channels), shape.length === 2 ? [1, channels] : [channels]]];
    }),
  );
}

/** SHA-256 of outputs: their kinds, shapes and numbers. */
function digest(outputs) {
  const parts = outputs.flatMap(({ type, dims, data }) => {
    const positive = type === "float32" ? data.map(value => value + 0) : data; // there is one zero
    return [
      new TextEncoder().encode(`${KINDS[type]}[${dims.join(", ")}]`),
      new Uint8Array(positive.buffer, positive.byteOffset, positive.byteLength),
    ];
  });
  return sha256(joined(parts));
}

/** @typedef {import("./layers.js").Engine} Engine */
/**
 * ONNX Runtime as long as it gives the answers of the reference.
 * @implements {Engine}
 */
export class Trusted {
  /**
   * @param {import("./layers.js").Arrays} arrays
   * @param {(graph: string) => Promise<Uint8Array>} read the bytes of a graph
   * @param {Record<string, string>} answers SHA-256 of the reference's to the small question, by graph
   * @param {import("./session.js").Runtime} runtime
   * @param {(message: string) => void} warn
   */
  constructor(arrays, read, answers, runtime, warn) {
    this.arrays = arrays;
    this.read = read;
    this.answers = answers;
    this.runtime = runtime;
    this.warn = warn;
    this.plain = /** @type {Plain | null} */ (null);
    /** @type {Map<string, Promise<any>>} */
    this.sessions = new Map();
  }

  /** Fetches and loads all graphs, those that are needed first first. @param {number} steps */
  async prepare(steps) {
    for (const name of [INDICES, BASE, ...Array.from({ length: steps }, (_, n) => STEP + n)]) await this._session(name);
  }

  async base(code, grid) {
    const found = await this._ask(BASE, { code: ["uint8", code] }, grid);
    return found ? { features: found.features.data, means: found.means.data } : this._plain().base(code, grid);
  }

  async step(number, inputs, grid) {
    const { features, known, before, quality, ratio, where } = inputs, columns = this.arrays[`prior.steps.${number}.mean_scale`].shape[0];
    const feeds = {
      features: ["uint8", features], known: ["uint8", known], before: ["uint8", before], where: where && placesOf(where),
      quality: ["float32", quality, [quality.length]], ratio: ["float32", ratio, [ratio.length / columns, columns]],
    };
    const found = await this._ask(STEP + number, feeds, grid);
    if (!found) return this._plain().step(number, inputs, grid);
    return { means: found.means.data, classes: found.classes.data, after: found.after.data };
  }

  async indices(code, offset, where, grid) {
    const feeds = { code: ["uint8", code], offset: ["float32", offset, [offset.length]], where: placesOf(where) };
    const found = await this._ask(INDICES, feeds, grid);
    return found ? found.logits.data : this._plain().indices(code, offset, where, grid);
  }

  _plain() {
    return (this.plain ??= new Plain(this.arrays));
  }

  /** What a graph gives for those feeds [type, data, shape] that it takes, the shape [1, h, w, C] where there is none. */
  async _ask(name, feeds, { height, width }) {
    const session = await this._session(name);
    if (!session) return null;
    const shaped = session.inputNames.map(input => {
      const [type, data, shape] = feeds[input];
      return [input, [type, data, shape ?? [1, height, width, data.length / (height * width)]]];
    });
    return this.runtime.run(session, Object.fromEntries(shaped));
  }

  /** The session of a graph that has answered rightly; null once one has not. @param {string} name */
  async _session(name) {
    if (this.plain) return null;
    if (!this.sessions.has(name)) {
      const loading = this._loaded(name);
      loading.catch(() => this.sessions.delete(name)); // a failed download may be tried again
      this.sessions.set(name, loading);
    }
    return this.sessions.get(name);
  }

  async _loaded(name) {
    const graph = await this.read(`${name}.onnx`);
    const session = await this.runtime.session(graph, { optimise: false, weights: weightsOf(this.arrays, name) });
    const outputs = await this.runtime.run(session, question(session));
    if ((await digest(session.outputNames.map(output => outputs[output]))) === this.answers[`${name}.onnx`]) return session;
    if (!this.plain) this.warn(`the graph ${name} does not give the numbers that it must give; going on in JavaScript, slower and exact`);
    this._plain();
    return null;
  }
}

/** @param {Int32Array} where */
const placesOf = where => ["int64", BigInt64Array.from(where, BigInt), [where.length]];
