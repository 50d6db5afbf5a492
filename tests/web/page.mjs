// SPDX-License-Identifier: MIT
// What tests/test_web.py asks of a page: it is loaded beside vqcodec/, and its functions are called by name.
import { indices } from "./indices.mjs";
import { configure, decode, decodeAll, info, toPng } from "./vqcodec/vqcodec.js";

const from = name => import(new URL(`vqcodec/${name}`, import.meta.url).href);
const bytesOf = async file => new Uint8Array(await (await fetch(file)).arrayBuffer());
const base64 = async data => {
  const url = await new Promise(resolve => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(data instanceof Blob ? data : new Blob([data]));
  });
  return url.slice(url.indexOf(",") + 1);
};
let model = null;

const asked = {
  /** The samples of a file, and which parts arrived before. */
  async samples(file, options = {}) {
    const parts = [];
    const image = await decode(await bytesOf(file), { ...options, onPart: part => parts.push([part.stage, part.x, part.y, part.width, part.height]) });
    return { width: image.width, height: image.height, rgba: await base64(image.data), parts };
  },
  /** Milliseconds of decoding a file, several times: to the first look, and to the end. */
  async times(file, count, threads) {
    configure({ threads });
    const bytes = await bytesOf(file), found = [];
    for (let i = 0; i <= count; i++) {
      const start = performance.now();
      let look = 0, pixels = 0;
      const facts = await info(bytes);
      await decode(bytes, { preview: true, onPart: ({ stage, width, height }) => {
        if (stage === "base" && (pixels += width * height) === facts.width * facts.height) look = performance.now() - start;
      } });
      const both = performance.now() - start, again = performance.now();
      await decode(bytes);
      found.push({ look, both, whole: performance.now() - again });
    }
    return found.slice(1); // the first one loads the model
  },
  /** The indices, with modules of the page itself: no worker. */
  async digests(file) {
    const { Model, Served } = await from("models.js");
    const { Runtime } = await from("session.js");
    const ort = await import(new URL("onnxruntime-web/dist/ort.wasm.min.mjs", import.meta.url).href);
    Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: new URL("onnxruntime-web/dist/", import.meta.url).href });
    return indices(from, await bytesOf(file), async checksum =>
      (model ??= await Model.load(checksum, new Served(new URL("vqcodec/models/", import.meta.url).href, checksum).read, new Runtime(ort))));
  },
  async png(file) {
    return base64(await toPng(await bytesOf(file)));
  },
  /** A file that arrives in two halves: what had been shown when only the first was there. */
  async halves(file, first) {
    const bytes = await bytesOf(file), parts = [];
    let send = null;
    const body = new ReadableStream({ start: control => ((send = control), control.enqueue(bytes.slice(0, first))) });
    let seen = null, arrived = null;
    const shown = new Promise(resolve => (seen = resolve));
    const { width, height } = await info(bytes);
    const done = decodeAll(new Response(body), { onPart: part => {
      parts.push(part.stage);
      arrived = (arrived ?? 0) + part.width * part.height;
      if (arrived === width * height) seen();
    } });
    await shown;
    const before = [...parts];
    send.enqueue(bytes.slice(first));
    send.close();
    const { image } = await done;
    return { before, parts, rgba: await base64(image.data), width, height };
  },
  /** How near the first look is to what the whole synthesis makes of the base layer: PSNR in dB. */
  async look(file) {
    const bytes = await bytesOf(file), whole = await decode(bytes, { coarse: true }), { width, height } = whole;
    const seen = new Uint8ClampedArray(whole.data.length);
    await decode(bytes, { preview: true, onPart: part => {
      if (part.stage !== "base") return;
      for (let y = 0; y < part.height; y++) {
        seen.set(part.data.subarray(4 * y * part.width, 4 * (y + 1) * part.width), 4 * ((part.y + y) * width + part.x));
      }
    } });
    let sum = 0;
    for (let i = 0; i < seen.length; i++) if (i % 4 < 3) sum += (seen[i] - whole.data[i]) ** 2;
    return 10 * Math.log10(255 ** 2 / (sum / (3 * width * height)));
  },
  async aborted(file) {
    const control = new AbortController(), bytes = await bytesOf(file);
    const done = decode(bytes, { signal: control.signal });
    control.abort();
    const name = await done.then(() => "done", error => error.name);
    const { width } = await decode(bytes); // the next one works
    return [name, width];
  },
  info: async file => info(await bytesOf(file)),
};

window.ask = async (name, ...rest) => {
  try {
    return await asked[name](...rest);
  } catch (error) {
    return { error: error.message, code: error.code ?? null };
  }
};
