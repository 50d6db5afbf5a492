// SPDX-License-Identifier: MIT
// Decodes .vqc files in Node: node check.mjs WEB MODEL RUNTIME|plain < {"files": [...], "out": "folder"} > answers.
// Of each file: sha256 of its indices as tests/golden/make.py takes them, or the error; RGBA in out/NUMBER.rgba.
import crypto from "node:crypto";
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [web, folder, runtime] = process.argv.slice(2);
const from = name => import(pathToFileURL(`${web}/${name}`).href);
const { Arriving, Picture, decode, headerOf } = await from("decoder.js");
const { readMetadata, checkSize } = await from("container.js");
const { Model, verified } = await from("models.js");
const { Runtime } = await from("session.js");
const read = path => new Uint8Array(fs.readFileSync(path));

let engine = null;
if (runtime !== "plain") {
  const ort = await import(pathToFileURL(`${runtime}/ort.wasm.min.mjs`).href);
  Object.assign(ort.env.wasm, { numThreads: 1 });
  engine = new Runtime(ort);
}
const warnings = [];
const checksum = JSON.parse(fs.readFileSync(`${folder}/model.json`)).files["tables.npz"].sha256.slice(0, 8);
const fetched = async (name, digest) => (digest ? verified(read(`${folder}/${name}`), name, digest) : read(`${folder}/${name}`));
const model = await Model.load(checksum, fetched, engine, warning => warnings.push(warning));
const modelOf = async wanted => {
  if (wanted === checksum) return model;
  throw Object.assign(new Error(`no model ${wanted}`), { code: 5 });
};
const digest = array => (array ? crypto.createHash("sha256").update(Buffer.from(array.buffer, array.byteOffset, array.byteLength)).digest("hex") : null);

async function indices(bytes) {
  const source = Arriving.of(bytes), header = await headerOf(source);
  checkSize(header, bytes.length, true);
  await readMetadata(bytes, header);
  const picture = new Picture(source, header, await modelOf(header.model), { x0: 0, y0: 0, x1: header.width, y1: header.height });
  await picture.readColour();
  const tiles = header.columns * header.rows, { x1: width, y1: height } = picture.field, count = model.prior.latents;
  for (let tile = 0; tile < tiles; tile++) await picture.readBase(tile);
  const refinement = header.refinement ? new Int32Array(width * height * count) : null;
  for (let tile = 0; refinement && tile < tiles; tile++) {
    const { x0, y0, x1 } = picture.tile(tile);
    await picture.readTile(tile, false, (read, places, step) =>
      places.forEach((place, n) => {
        const at = (y0 + Math.floor(place / (x1 - x0))) * width + x0 + (place % (x1 - x0));
        refinement.set(read.subarray(n * step.count, (n + 1) * step.count), at * count + step.start);
      }),
    );
  }
  const { indices: colour, polynomialExponent, shifts, exponent, size } = picture.layer ?? {};
  const with_first = (first, rest) => Int32Array.from([...first, ...rest]);
  return {
    base_shape: [height, width], base: digest(picture.base), refinement: digest(refinement),
    colour: colour ? digest(with_first(Array(3).fill(polynomialExponent), colour)) : null,
    drift: shifts ? digest(with_first(Array(3 * size.columns).fill(exponent), shifts)) : null,
  };
}

const { files, out } = JSON.parse(fs.readFileSync(0, "utf8"));
const answers = [];
for (const [number, file] of files.entries()) {
  const bytes = read(file);
  try {
    const found = await indices(bytes);
    if (out) {
      const { width, height, data } = await decode(Arriving.of(bytes), modelOf);
      fs.writeFileSync(`${out}/${number}.rgba`, data);
      Object.assign(found, { width, height });
    }
    answers.push(found);
  } catch (error) {
    answers.push({ error: error.message, code: error.code ?? null });
  }
}
process.stdout.write(JSON.stringify({ answers, warnings }), () => process.exit(0)); // ONNX Runtime's threads would wait
