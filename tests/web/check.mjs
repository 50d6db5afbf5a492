// SPDX-License-Identifier: MIT
// Decodes .vqc files in Node: node check.mjs WEB MODEL RUNTIME|plain < {"files": [...], "out": "folder"} > answers.
// Of each file its indices (indices.mjs), or the error; with "out" also its samples, RGBA, in out/NUMBER.rgba.
import fs from "node:fs";
import { pathToFileURL } from "node:url";
import { indices } from "./indices.mjs";

const [web, folder, runtime] = process.argv.slice(2);
const from = name => import(pathToFileURL(`${web}/${name}`).href);
const { Arriving, decode } = await from("decoder.js");
const { Model, verified } = await from("models.js");
const { Runtime } = await from("session.js");
const read = path => new Uint8Array(fs.readFileSync(path));

let engine = null;
if (runtime !== "plain") {
  const ort = await import(pathToFileURL(`${runtime}/ort.wasm.min.mjs`).href);
  Object.assign(ort.env.wasm, { numThreads: 1 });
  engine = new Runtime(ort);
}
const { files, out } = JSON.parse(fs.readFileSync(0, "utf8"));
const warnings = [], answers = [];
const checksum = JSON.parse(fs.readFileSync(`${folder}/model.json`)).files["tables.npz"].sha256.slice(0, 8);
const fetched = async (name, digest) => (digest ? verified(read(`${folder}/${name}`), name, digest) : read(`${folder}/${name}`));
const model = await Model.load(checksum, fetched, engine, warning => warnings.push(warning));
const modelOf = async wanted => {
  if (wanted === checksum) return model;
  throw Object.assign(new Error(`no model ${wanted}`), { code: 5 });
};
for (const [number, file] of files.entries()) {
  const bytes = read(file);
  try {
    const found = await indices(from, bytes, modelOf);
    if (out) {
      const decoded = await decode(Arriving.of(bytes), modelOf).catch(error => {
        if (!error.message.includes("only a browser")) throw error; // patches
      });
      if (decoded) fs.writeFileSync(`${out}/${number}.rgba`, decoded.data);
      Object.assign(found, { width: decoded?.width, height: decoded?.height });
    }
    answers.push(found);
  } catch (error) {
    answers.push({ error: error.message, code: error.code ?? null });
  }
}
process.stdout.write(JSON.stringify({ answers, warnings }), () => process.exit(0)); // ONNX Runtime's threads would wait
