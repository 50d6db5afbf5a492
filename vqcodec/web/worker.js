// SPDX-License-Identifier: MIT
/** The worker behind vqcodec.js: pictures in, samples or PNG files out; models and runtime are loaded once. */
import { Arriving, decode } from "./decoder.js";
import { VqcError, inputError, modelError } from "./errors.js";
import { Model, Served } from "./models.js";
import { writePng } from "./png.js";
import { Runtime } from "./session.js";

const AT_ONCE = 2; // pictures: one may wait for its bytes while another is decoded
const MAX_THREADS = 4;
/**
 * Not in Firefox: ONNX Runtime's threads are workers of this worker there, and on a busy machine the first picture then
 * sometimes waits for ever (seen in 153 with onnxruntime-web 1.30). Only Firefox says Gecko and its date.
 */
const THREADED = self.crossOriginIsolated && !/ Gecko\/\d/.test(navigator.userAgent);

/** @type {Map<number, {source: Arriving, signal: {aborted: boolean}}>} */
const tasks = new Map();
const queue = /** @type {(() => void)[]} */ ([]);
let running = 0;
/** @type {Map<string, Promise<any>>} */
const loaded = new Map();

/** What `make` gives for a key, made once; a failure may be tried again. @template T @param {string} key @param {() => Promise<T>} make */
function once(key, make) {
  if (!loaded.has(key)) {
    const made = make();
    loaded.set(key, made);
    made.catch(() => loaded.delete(key));
  }
  return /** @type {Promise<T>} */ (loaded.get(key));
}

async function runtimeAt(folder, threads) {
  try {
    const ort = await import(`${folder}ort.wasm.min.mjs`);
    ort.env.wasm.wasmPaths = folder;
    ort.env.wasm.numThreads = THREADED ? threads || Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
    ort.env.logLevel = "error";
    return new Runtime(ort);
  } catch (error) {
    throw modelError(`onnxruntime-web cannot be loaded from ${folder} (${/** @type {Error} */ (error).message})`);
  }
}

const modelOf = ({ runtime, models, threads }) => checksum =>
  once(`${models} ${checksum}`, async () => {
    const engine = await once(runtime, () => runtimeAt(runtime, threads));
    return Model.load(checksum, new Served(models, checksum).read, engine);
  });

/** A place among those that are decoded. */
async function turn() {
  if (running >= AT_ONCE) await new Promise(resolve => queue.push(() => resolve(null)));
  running++;
}

async function run(id, { region, maxPixels, coarse, preview, png, parts, look }, places, source, signal) {
  const post = (answer, transfer = []) => self.postMessage({ id, ...answer }, { transfer });
  await turn();
  try {
    let canvas = null, left = { width: 0, height: 0, pixels: 0 };
    const onPart = part => {
      if (look && part.stage === "base") {
        canvas ??= new Uint8ClampedArray(4 * left.width * left.height);
        for (let y = 0; y < part.height; y++) {
          canvas.set(part.data.subarray(4 * y * part.width, 4 * (y + 1) * part.width), 4 * ((part.y + y) * left.width + part.x));
        }
        left.pixels -= part.width * part.height;
        if (!left.pixels) writePng({ width: left.width, height: left.height, data: canvas }, {}).then(blob => post({ look: blob }));
      }
      if (parts) post({ part }, part.stage === "base" ? [part.data.buffer] : []);
    };
    const onHeader = header => {
      const { width, height } = region ?? header;
      left = { width, height, pixels: width * height };
      post({ header });
    };
    const wanted = { region, maxPixels, coarse, preview, signal, onHeader, onPart: parts || look ? onPart : undefined };
    const done = await decode(source, modelOf(places), wanted);
    const { gray, alpha, srgb } = done.header, side = { gray, alpha, srgb, icc: done.icc, exif: done.exif, xmp: done.xmp };
    if (png) post({ done: { blob: await writePng(done, side), header: done.header } });
    else post({ done }, [done.data.buffer]);
  } catch (error) {
    const known = error instanceof VqcError ? error : inputError(String(/** @type {any} */ (error)?.message ?? error));
    post({ error: { message: known.message, code: known.code } });
  } finally {
    tasks.delete(id);
    running--;
    queue.shift()?.();
  }
}

self.onmessage = ({ data: { id, kind, wanted, places, bytes, error } }) => {
  if (kind === "start") {
    const task = { source: new Arriving(), signal: { aborted: false } };
    tasks.set(id, task);
    run(id, wanted, places, task.source, task.signal);
    return;
  }
  const task = tasks.get(id);
  if (!task) return;
  if (kind === "bytes") task.source.push(bytes);
  else if (kind === "end") task.source.end(error ? inputError(error) : undefined);
  else {
    task.signal.aborted = true;
    task.source.end(inputError("no longer wanted"));
  }
};
