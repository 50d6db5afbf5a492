// SPDX-License-Identifier: MIT
/**
 * .vqc pictures in the browser. One module, no build step; decoding runs in a worker.
 *
 *     import { decode, info, toPng } from "./vqcodec/vqcodec.js";
 *     const image = await decode(await (await fetch("photo.vqc")).arrayBuffer()); // ImageData
 *
 * Beside this module lie the models (`models/`), and beside its folder onnxruntime-web, as npm lays them; `configure`
 * names other places.
 */
import { readHeader } from "./container.js";
import { VqcError, inputError } from "./errors.js";

export { VqcError };

/** @typedef {BufferSource | Blob | Response | URL | string} Source bytes, or where they are */
/**
 * @typedef {object} Options
 * @property {import("./decoder.js").Region} [region] what is wanted of the picture
 * @property {number} [maxPixels] largest width x height to accept; 2^27 by default
 * @property {boolean} [coarse] restore the picture from the base layer alone: faster, for small views
 * @property {boolean} [preview] whether `onPart` sees the base layer first; by default only while the rest is on its way
 * @property {(header: import("./container.js").Header) => void} [onHeader]
 * @property {(part: import("./decoder.js").Part) => void} [onPart] sees the picture grow, tile by tile
 * @property {(look: Blob) => void} [onLook] `toPng`: sees the base layer as PNG, while the rest is on its way
 * @property {AbortSignal} [signal]
 */
/** @typedef {{image: ImageData, header: import("./container.js").Header, icc?: Uint8Array, exif?: Uint8Array, xmp?: Uint8Array}} Everything */

const places = {
  runtime: new URL("../onnxruntime-web/dist/", import.meta.url).href,
  models: new URL("models/", import.meta.url).href,
  threads: 0,
};

/**
 * Where things are; before the first picture is decoded.
 * @param {{runtime?: string | URL, models?: string | URL, threads?: number}} change `runtime`: the folder with
 *   ort.wasm.min.mjs; `models`: the folder with a folder for each model; `threads`: 0 for as many as there are
 *   processors, up to 4. More than one needs a page that is cross-origin isolated; Firefox takes one.
 */
export function configure({ runtime, models, threads }) {
  const folder = url => new URL(url, globalThis.location?.href).href.replace(/\/?$/, "/");
  if (runtime) places.runtime = folder(runtime);
  if (models) places.models = folder(models);
  if (threads !== undefined) places.threads = threads;
}

/**
 * The picture. Samples are not colour-managed: where a file has a colour profile (`decodeAll` gives it), they are in its
 * space, which `toPng` writes down and a canvas does not know.
 * @param {Source} source @param {Options} [options]
 * @returns {Promise<ImageData>}
 * @throws {VqcError} the file is damaged, its model is not there, or a limit is exceeded
 */
export const decode = async (source, options = {}) => (await decodeAll(source, options)).image;

/**
 * The picture and all that the file holds beside it.
 * @param {Source} source @param {Options} [options]
 * @returns {Promise<Everything>}
 */
export async function decodeAll(source, options = {}) {
  const { data, width, height, ...rest } = await ask(source, options, false);
  return { image: new ImageData(data, width, height), ...rest };
}

/**
 * The picture as a PNG file with its colour profile, EXIF and XMP: what an <img> shows in the right colours.
 * @param {Source} source @param {Options} [options]
 * @returns {Promise<Blob>}
 */
export const toPng = async (source, options = {}) => (await ask(source, options, true)).blob;

/**
 * What the header says; nothing is decoded.
 * @param {BufferSource | Blob} source the file, or its first part
 * @returns {Promise<{width: number, height: number, quality: number, tune: string, model: string, gray: boolean,
 *   alpha: boolean, srgb: boolean, refinement: boolean, tiles: number, tileSide: number, fileBytes: number, bpp: number,
 *   parts: Record<string, number>}>} `parts`: bytes of each kind of section
 */
export async function info(source) {
  const header = readHeader(source instanceof Blob ? new Uint8Array(await source.arrayBuffer()) : viewOf(source));
  const { width, height, quality, tune, model, gray, alpha, srgb, refinement, tileSide, fileBytes } = header;
  const parts = { header: header.headerBytes };
  for (const { kind, size } of header.sections) parts[kind] = (parts[kind] ?? 0) + size;
  parts.checksums = 4 * header.sections.length;
  return {
    width, height, quality, tune, model, gray, alpha, srgb, refinement, tiles: header.columns * header.rows, tileSide,
    fileBytes, bpp: (8 * fileBytes) / (width * height), parts,
  };
}

// ---- the worker --------------------------------------------------------------------------------------------------------

/** @type {Worker | null} */
let worker = null;
let last = 0;
/** @type {Map<number, {resolve: Function, reject: Function, options: Options}>} */
const waiting = new Map();

function started() {
  if (worker) return worker;
  const url = new URL("worker.js", import.meta.url).href;
  const foreign = new URL(url).origin !== location.origin; // a worker's own script must be of the page's origin
  const script = foreign ? URL.createObjectURL(new Blob([`import ${JSON.stringify(url)};`], { type: "text/javascript" })) : url;
  worker = new Worker(script, { type: "module" });
  worker.onmessage = ({ data: { id, ...answer } }) => {
    const request = waiting.get(id);
    if (!request) return;
    if (answer.header && !answer.done) request.options.onHeader?.(answer.header);
    if (answer.part) request.options.onPart?.(answer.part);
    if (answer.look) request.options.onLook?.(answer.look);
    if (answer.error) request.reject(new VqcError(answer.error.message, answer.error.code));
    if (answer.done) request.resolve(answer.done);
    if (answer.error || answer.done) waiting.delete(id);
  };
  worker.onerror = event => {
    for (const { reject } of waiting.values()) reject(inputError(`the decoder cannot be started (${event.message ?? url})`));
    waiting.clear();
    worker = null;
  };
  return worker;
}

/** @param {Source} source @param {Options} options @param {boolean} png @returns {Promise<any>} */
function ask(source, options, png) {
  const { region, maxPixels, coarse, preview, signal } = options, id = ++last, to = started();
  return new Promise((resolve, reject) => {
    const stop = () => {
      waiting.delete(id);
      to.postMessage({ id, kind: "cancel" });
      reject(signal?.reason);
    };
    if (signal?.aborted) return reject(signal.reason);
    signal?.addEventListener("abort", stop, { once: true });
    waiting.set(id, {
      resolve: value => (signal?.removeEventListener("abort", stop), resolve(value)),
      reject: error => (signal?.removeEventListener("abort", stop), to.postMessage({ id, kind: "cancel" }), reject(error)),
      options,
    });
    const wanted = { region, maxPixels, coarse, preview, png, parts: !!options.onPart, look: !!options.onLook };
    to.postMessage({ id, kind: "start", wanted, places });
    feed(source, id, to, signal).then(
      () => to.postMessage({ id, kind: "end" }),
      error => to.postMessage({ id, kind: "end", error: error instanceof VqcError ? error.message : `the file cannot be fetched (${error.message})` }),
    );
  });
}

/** Hands the bytes over as they arrive. */
async function feed(source, id, to, signal) {
  if (typeof source === "string" || source instanceof URL) source = await fetch(source, { signal });
  if (source instanceof Response && !source.ok) throw inputError(`the file cannot be fetched (status ${source.status})`);
  if (source instanceof Blob || source instanceof Response) {
    const size = source instanceof Blob ? source.size : Number(source.headers.get("content-length") ?? Infinity);
    if (source instanceof Response && source.body && !(size < 1 << 16)) {
      const reader = source.body.getReader();
      for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
        if (!waiting.has(id)) return reader.cancel();
        to.postMessage({ id, kind: "bytes", bytes: value });
      }
      return;
    }
    source = await source.arrayBuffer();
  }
  to.postMessage({ id, kind: "bytes", bytes: viewOf(source).slice() });
}

/** @param {BufferSource} source */
function viewOf(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  throw inputError("a .vqc file is given as ArrayBuffer, typed array, Blob, Response or URL");
}

