// SPDX-License-Identifier: MIT
/** PNG (third edition): the alpha channel read, pictures written with all that a .vqc file keeps beside the pixels. */
import { crc32 } from "./container.js";
import { damagedError } from "./errors.js";
import { deflate, inflate, joined } from "./zlib.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const damaged = reason => damagedError(`the alpha channel is damaged (${reason})`);

/**
 * The alpha channel: exactly IHDR, IDAT ..., IEND; 8-bit gray, not interlaced, of the picture's size.
 * @param {Uint8Array} bytes @param {number} width @param {number} height
 * @returns {Promise<Uint8Array>} [height * width]
 */
export async function readAlpha(bytes, width, height) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (SIGNATURE.some((value, i) => bytes[i] !== value)) throw damaged("not a PNG");
  const rows = [];
  let name = "";
  for (let at = 8, number = 0; name !== "IEND" || at < bytes.length; number++) {
    const length = at + 8 <= bytes.length ? view.getUint32(at) : Infinity;
    if (at + 12 + length > bytes.length) throw damaged("truncated");
    name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (crc32(bytes.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length)) {
      throw damaged(`the checksum of ${name} does not match`);
    }
    at += 12 + length;
    if (number === 0) {
      const fits = name === "IHDR" && length === 13 && view.getUint32(16) === width && view.getUint32(20) === height;
      if (!fits || [8, 0, 0, 0, 0].some((value, i) => body[8 + i] !== value)) {
        throw damaged(`it is not 8-bit gray of ${width}x${height}`);
      }
    } else if (name === "IDAT") rows.push(body);
    else if (name !== "IEND" || !rows.length || length || at < bytes.length) throw damaged("unexpected chunks");
  }
  const plain = await inflate(joined(rows), height * (width + 1), "the alpha channel");
  if (plain.length !== height * (width + 1)) throw damaged("rows are missing");
  return unfiltered(plain, width, height);
}

/** Rows with a filter each (PNG, 9) -> samples of one byte. */
function unfiltered(plain, width, height) {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const filter = plain[y * (width + 1)];
    if (filter > 4) throw damaged("an unknown filter");
    for (let x = 0, at = y * width; x < width; x++, at++) {
      const left = x ? out[at - 1] : 0, above = y ? out[at - width] : 0;
      const corner = x && y ? out[at - width - 1] : 0;
      const guess = [0, left, above, (left + above) >> 1, filter === 4 ? _paeth(left, above, corner) : 0][filter];
      out[at] = plain[y * (width + 1) + 1 + x] + guess;
    }
  }
  return out;
}

function _paeth(left, above, corner) {
  const a = Math.abs(above - corner), b = Math.abs(left - corner), c = Math.abs(left + above - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/**
 * A PNG file of a picture.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} picture RGBA
 * @param {{gray?: boolean, alpha?: boolean, srgb?: boolean, icc?: Uint8Array, exif?: Uint8Array, xmp?: Uint8Array}} side
 * @returns {Promise<Blob>}
 */
export async function writePng({ width, height, data }, { gray, alpha, srgb, icc, exif, xmp }) {
  const channels = gray ? (alpha ? [0, 3] : [0]) : alpha ? [0, 1, 2, 3] : [0, 1, 2];
  const bands = channels.length, size = width * bands;
  const rows = new Uint8Array(height * (size + 1));
  let before = new Uint8Array(size), line = new Uint8Array(size);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0, i = 0; x < width; x++) for (const channel of channels) line[i++] = data[4 * (y * width + x) + channel];
    rows[at++] = 4;
    for (let i = 0; i < size; i++) {
      const [left, corner] = i < bands ? [0, 0] : [line[i - bands], before[i - bands]];
      rows[at++] = line[i] - _paeth(left, before[i], corner);
    }
    [before, line] = [line, before];
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, { 1: 0, 2: 4, 3: 2, 4: 6 }[bands] ?? 6);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", new Uint8Array(header.buffer))];
  const text = value => new TextEncoder().encode(value);
  if (icc) parts.push(chunk("iCCP", joined([text("ICC Profile\0\0"), await deflate(icc)])));
  else if (srgb && !gray) parts.push(chunk("sRGB", Uint8Array.of(0)));
  if (exif) parts.push(chunk("eXIf", exif));
  if (xmp) parts.push(chunk("iTXt", joined([text("XML:com.adobe.xmp\0\0\0\0\0"), xmp])));
  parts.push(chunk("IDAT", await deflate(rows)), chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, { type: "image/png" });
}

/** @param {string} name @param {Uint8Array} body */
function chunk(name, body) {
  const out = new Uint8Array(12 + body.length), view = new DataView(out.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) out[4 + i] = name.charCodeAt(i);
  out.set(body, 8);
  view.setUint32(8 + body.length, crc32(out.subarray(4, 8 + body.length)));
  return out;
}
