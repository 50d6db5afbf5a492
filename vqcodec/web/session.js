// SPDX-License-Identifier: MIT
/** ONNX Runtime: sessions of graphs, run one at a time. The only file that knows its interface. */
import { limitError, modelError } from "./errors.js";

const NO_MEMORY = /bad_alloc|out of memory|allocate|memory access out of bounds/i;

export class Runtime {
  /** @param {any} ort the module onnxruntime-web */
  constructor(ort) {
    this.ort = ort;
    this.last = Promise.resolve(); // sessions run one after the other
  }

  /** @param {Uint8Array} graph @param {{optimise: boolean}} options */
  async session(graph, { optimise }) {
    try {
      return await this.ort.InferenceSession.create(graph, {
        executionProviders: ["wasm"],
        graphOptimizationLevel: optimise ? "all" : "disabled",
        enableCpuMemArena: false,
      });
    } catch (error) {
      throw this._named(error, "loaded");
    }
  }

  /**
   * @param {any} session
   * @param {Record<string, [string, any, number[]]>} feeds type, data and shape
   * @returns {Promise<Record<string, any>>} the outputs' data
   */
  async run(session, feeds) {
    const turn = this.last.then(async () => {
      const tensors = Object.entries(feeds).map(([name, [type, data, shape]]) => [name, new this.ort.Tensor(type, data, shape)]);
      const outputs = await session.run(Object.fromEntries(tensors));
      return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, /** @type {any} */ (tensor).data]));
    });
    this.last = turn.then(() => {}, () => {});
    try {
      return await turn;
    } catch (error) {
      throw this._named(error, "run");
    }
  }

  _named(error, what) {
    const reason = String(error?.message ?? error).split("\n")[0];
    if (NO_MEMORY.test(reason)) return limitError("not enough memory to run the model: take a region of the picture");
    return modelError(`the model's graph cannot be ${what} (${reason})`);
  }
}
