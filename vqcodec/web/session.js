// SPDX-License-Identifier: MIT
/** ONNX Runtime: sessions of graphs, run one at a time. The only file that knows its interface. */
import { limitError, modelError } from "./errors.js";

const NO_MEMORY = /bad_alloc|out of memory|allocate|memory access out of bounds/i;

export class Runtime {
  /** @param {any} ort the module onnxruntime-web */
  constructor(ort) {
    this.ort = ort;
    this.last = /** @type {Promise<any>} */ (Promise.resolve()); // one thing after the other: external data has one name for all sessions
  }

  /**
   * @param {Uint8Array} graph
   * @param {{optimise: boolean, weights?: Uint8Array}} options `weights`: what the graph leaves to the model's tables
   */
  session(graph, { optimise, weights }) {
    const options = {
      executionProviders: ["wasm"],
      graphOptimizationLevel: optimise ? "all" : "disabled",
      enableCpuMemArena: false,
      ...(weights && { externalData: [{ path: "tables.npz", data: weights }] }),
    };
    return this._turn("loaded", () => this.ort.InferenceSession.create(graph, options));
  }

  /**
   * @param {any} session
   * @param {Record<string, [string, any, number[]]>} feeds type, data and shape
   * @returns {Promise<Record<string, any>>} the outputs, each with `type`, `dims` and `data`
   */
  run(session, feeds) {
    const tensors = Object.entries(feeds).map(([name, [type, data, shape]]) => [name, new this.ort.Tensor(type, data, shape)]);
    return this._turn("run", () => session.run(Object.fromEntries(tensors)));
  }

  /** Does work when all that came before is done. @param {string} what @param {() => Promise<any>} work @returns {Promise<any>} */
  async _turn(what, work) {
    const turn = this.last.then(work);
    this.last = turn.then(() => {}, () => {});
    try {
      return await turn;
    } catch (error) {
      throw this._named(error, what);
    }
  }

  _named(error, what) {
    const reason = String(error?.message ?? error).split("\n")[0];
    if (NO_MEMORY.test(reason)) return limitError("not enough memory to run the model: take a region of the picture");
    return modelError(`the model's graph cannot be ${what} (${reason})`);
  }
}
