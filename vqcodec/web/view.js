// SPDX-License-Identifier: MIT
/**
 * The page of `vqcodec view`: a gallery, and one picture with its numbers. `list.json` says what there is, and who
 * decodes: "browser" (vqcodec.js), "server" (the local one, by Python) or "files" (PNG files that lie there).
 */
import { decode, decodeAll, info, toPng } from "./vqcodec.js";

const $ = id => /** @type {any} */ (document.getElementById(id));
const count = new Intl.NumberFormat("en");
const THUMB = 480; // pixels
const PARTS = ["header", "ICC profile", "EXIF data", "colour layer", "base layer", "refinement layer", "alpha channel", "XMP data", "patches"];

/** @typedef {{name: string, file?: string, png?: string, error?: string, bytes?: number, width?: number, height?: number, data?: ArrayBuffer}} Entry */
/** @type {{title: string, decoder: "browser" | "server" | "files", pictures: Entry[]}} */
let list = { title: "vqcodec view", decoder: "browser", pictures: [] };
let shown = -1;
let task = new AbortController();
let links = /** @type {string[]} */ ([]);

/** @param {number} bytes */
const size = bytes => (bytes < 1e4 ? `${count.format(bytes)} bytes` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`);
const say = text => ($("state").textContent = text);

// ---- the gallery -------------------------------------------------------------------------------------------------------

function gallery() {
  stop();
  shown = -1;
  $("viewer").hidden = true;
  $("gallery").hidden = false;
  say("");
  if ($("gallery").childElementCount === list.pictures.length) return;
  const nearby = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      thumbnail(/** @type {any} */ (target));
    }
  }, { rootMargin: "300px" });
  $("gallery").replaceChildren(...list.pictures.map((entry, number) => {
    const card = document.createElement("button");
    card.className = entry.error ? "card bad" : "card";
    const picture = document.createElement(list.decoder === "browser" ? "canvas" : "img");
    const text = document.createElement("span"), small = document.createElement("small");
    small.textContent = entry.error ?? `${entry.width} × ${entry.height}, ${size(entry.bytes ?? 0)}`;
    text.append(entry.name, small);
    card.append(picture, text);
    card.dataset.number = `${number}`;
    card.onclick = () => (location.hash = `${number}`);
    if (!entry.error) nearby.observe(card);
    return card;
  }));
}

/** A small view of a picture. @param {HTMLElement} card */
async function thumbnail(card) {
  const entry = list.pictures[Number(card.dataset.number)], picture = card.firstElementChild;
  if (picture instanceof HTMLImageElement) {
    picture.alt = "";
    picture.src = list.decoder === "server" ? `${entry.png}?most=${THUMB}` : entry.png ?? "";
    return;
  }
  const canvas = /** @type {HTMLCanvasElement} */ (picture);
  try {
    const image = await decode(new URL(entry.file ?? "", location.href), { coarse: (entry.width ?? 0) * (entry.height ?? 0) > 1e6 });
    const scale = Math.min(1, THUMB / Math.max(image.width, image.height));
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    const bitmap = await createImageBitmap(image, { resizeWidth: canvas.width, resizeHeight: canvas.height, resizeQuality: "high" });
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
    card.classList.add("done");
  } catch (error) {
    card.classList.add("bad");
    /** @type {any} */ (card.querySelector("small")).textContent = /** @type {Error} */ (error).message;
  }
}

// ---- one picture -------------------------------------------------------------------------------------------------------

function stop() {
  task.abort(new DOMException("another picture is wanted", "AbortError"));
  task = new AbortController();
  links.forEach(URL.revokeObjectURL);
  links = [];
}

const link = blob => (links.push(URL.createObjectURL(blob)), links[links.length - 1]);

/** @param {number} number @param {Entry} entry */
async function view(number, entry) {
  stop();
  shown = number;
  const signal = task.signal;
  $("gallery").hidden = true;
  $("viewer").hidden = false;
  $("name").textContent = entry.name;
  $("back").hidden = list.pictures.length < 2;
  for (const [id, to] of [["before", number - 1], ["after", number + 1]]) {
    $(id).hidden = list.pictures.length < 2;
    $(id).disabled = number < 0 || !list.pictures[to];
    $(id).onclick = () => (location.hash = `${to}`);
  }
  $("frame").replaceChildren();
  $("numbers").replaceChildren();
  $("png").removeAttribute("href");
  say(entry.error ?? "decoding …");
  try {
    const start = performance.now();
    const bytes = entry.data ?? (await fetched(entry, signal));
    $("vqc").href = entry.file ?? link(new Blob([bytes]));
    $("vqc").download = entry.name.split("/").pop();
    const facts = await info(bytes);
    numbers(facts, bytes.byteLength);
    await (list.decoder === "browser" ? decoded : handed)(entry, bytes, facts, signal);
    if (!signal.aborted) say(`decoded in ${((performance.now() - start) / 1000).toFixed(2)} s by ${list.decoder === "browser" ? "this browser" : "vqcodec"}`);
  } catch (error) {
    if (!signal.aborted) say(/** @type {Error} */ (error).message);
  }
}

async function fetched(entry, signal) {
  const response = await fetch(entry.file, { signal });
  if (!response.ok) throw new Error(`the file cannot be fetched (status ${response.status})`);
  return response.arrayBuffer();
}

/** By the decoder of this page: the base layer at once, then tile by tile. */
async function decoded(entry, bytes, facts, signal) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [facts.width, facts.height];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  place(canvas, facts);
  const onPart = part => context.putImageData(new ImageData(part.data, part.width, part.height), part.x, part.y);
  const { image, icc } = await decodeAll(bytes, { onPart, preview: true, signal });
  context.putImageData(image, 0, 0);
  $("png").download = entry.name.split("/").pop().replace(/\.vqc$/i, "") + ".png";
  const save = async () => {
    const blob = await toPng(bytes, { signal });
    return ($("png").href = link(blob));
  };
  if (icc) { // a canvas knows nothing of profiles, an <img> does
    const picture = new Image();
    picture.src = await save();
    await picture.decode();
    if (!signal.aborted) place(picture, facts);
  } else {
    $("png").href = "#";
    $("png").onclick = async event => {
      if ($("png").href.startsWith("blob:")) return;
      event.preventDefault();
      await save();
      $("png").click();
    };
  }
}

/** As PNG: by the server, or a file that lies there. */
async function handed(entry, bytes, facts, signal) {
  let url = entry.png;
  if (!url) {
    const response = await fetch("decode", { method: "POST", body: bytes, signal });
    if (!response.ok) throw new Error(await response.text());
    url = link(await response.blob());
  }
  const picture = new Image();
  picture.src = url;
  try {
    await picture.decode();
  } catch {
    const reason = list.decoder === "server" ? await (await fetch(url)).text() : "";
    throw new Error(reason.slice(0, 500) || "the picture cannot be shown");
  }
  if (signal.aborted) return;
  place(picture, facts);
  $("png").href = url;
  $("png").download = entry.name.split("/").pop().replace(/\.vqc$/i, "") + ".png";
}

function place(element, facts) {
  element.dataset.width = facts.width;
  $("frame").replaceChildren(element);
  zoom();
}

function zoom() {
  const factor = Number($("zoom").value), element = $("frame").firstElementChild;
  $("frame").className = `frame ${factor ? "" : "fit"} ${factor > 1 ? "large" : ""}`;
  if (element) element.style.width = factor ? `${element.dataset.width * factor}px` : "";
}

/** The table of what the header says. */
function numbers(facts, bytes) {
  const rows = [
    ["picture", `${facts.width} × ${facts.height} pixels, ${facts.gray ? "gray" : "colour"}${facts.alpha ? ", with transparency" : ""}`],
    ["file", `${count.format(bytes)} bytes, ${((8 * bytes) / (facts.width * facts.height)).toFixed(3)} bits per pixel`],
    ["quality", `${facts.quality} of 100, tune ${facts.tune}${facts.refinement ? "" : ", base layer alone"}`],
    ["model", facts.model],
    ...PARTS.concat(Object.keys(facts.parts).filter(kind => !PARTS.includes(kind)))
      .filter(kind => facts.parts[kind])
      .map(kind => [kind, `${count.format(facts.parts[kind])} bytes, ${((100 * facts.parts[kind]) / bytes).toFixed(1)} %`]),
  ];
  $("numbers").replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("tr"), [head, cell] = [document.createElement("th"), document.createElement("td")];
    [head.textContent, cell.textContent] = [name, value];
    row.append(head, cell);
    return row;
  }));
}

// ---- where one gets to ---------------------------------------------------------------------------------------------------

function route() {
  const number = location.hash ? Number(location.hash.slice(1)) : list.pictures.length === 1 ? 0 : -1;
  if (list.pictures[number]) view(number, list.pictures[number]);
  else gallery();
}

/** @param {File | undefined} file that was dropped or chosen */
async function opened(file) {
  if (!file) return;
  if (list.decoder === "files") return say("this page has no decoder: it shows the pictures that lie beside it");
  view(-1, { name: file.name, data: await file.arrayBuffer() });
  $("back").hidden = !list.pictures.length;
}

$("zoom").onchange = zoom;
$("back").onclick = () => (location.hash ? (location.hash = "") : gallery());
$("file").onchange = event => opened(event.target.files[0]);
addEventListener("hashchange", route);
addEventListener("keydown", event => {
  if (event.target instanceof HTMLSelectElement || shown < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft" && !$("before").disabled) $("before").click();
  if (event.key === "ArrowRight" && !$("after").disabled) $("after").click();
  if (event.key === "Escape" && list.pictures.length > 1) $("back").click();
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(/** @type {string} */ (name), event => {
    event.preventDefault();
    document.body.classList.toggle("over", /** @type {boolean} */ (over));
    if (name === "drop") opened(/** @type {DragEvent} */ (event).dataTransfer?.files[0]);
  });
}

try {
  const response = await fetch("list.json");
  if (!response.ok) throw new Error(`status ${response.status}`);
  list = await response.json();
  document.title = $("title").textContent = list.title;
  route();
} catch (error) {
  say(`the list of pictures cannot be read (${/** @type {Error} */ (error).message})`);
}
