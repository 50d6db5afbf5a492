// SPDX-License-Identifier: MIT
// Copies the models' files that a browser reads from vqcodec/weights into models/CHECKSUM: `npm run prepack`.
import fs from "node:fs";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL("..", import.meta.url));
for (const id of fs.readdirSync(`${web}/../weights`)) {
  const folder = `${web}/../weights/${id}`;
  if (!fs.existsSync(`${folder}/model.json`)) continue;
  const checksum = JSON.parse(fs.readFileSync(`${folder}/model.json`, "utf8")).files["tables.npz"].sha256.slice(0, 8);
  fs.mkdirSync(`${web}/models/${checksum}`, { recursive: true });
  for (const name of fs.readdirSync(folder).filter(name => /^(model\.json|tables\.npz|(synthesis|prior-.*)\.onnx)$/.test(name))) fs.copyFileSync(`${folder}/${name}`, `${web}/models/${checksum}/${name}`);
}
fs.copyFileSync(`${web}/../../LICENSE`, `${web}/LICENSE`);
