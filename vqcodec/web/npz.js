// SPDX-License-Identifier: MIT
/** `tables.npz`: a ZIP archive of NumPy arrays of integers. */
import { modelError } from "./errors.js";
import { inflate } from "./zlib.js";

const MAX_BYTES = 2 ** 28; // of all arrays together
const MAX_ARRAYS = 4096;
const KINDS = { "|i1": Int8Array, "|u1": Uint8Array, "<i2": Int16Array, "<u2": Uint16Array, "<i4": Int32Array, "<u4": Uint32Array };

/** @typedef {{shape: number[], data: Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array}} Integers */

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<Record<string, Integers>>}
 */
export async function readArrays(bytes) {
  try {
    const entries = listed(bytes);
    if (entries.length > MAX_ARRAYS || entries.reduce((sum, entry) => sum + entry.size, 0) > MAX_BYTES) {
      throw new Error("they hold more than a model may");
    }
    const arrays = await Promise.all(
      entries.map(async ({ name, start, packed, size, method }) => {
        const body = bytes.subarray(start, start + packed);
        const plain = method === 8 ? await inflate(body, size, name, "deflate-raw") : body;
        if (plain.length !== size || (method !== 8 && method !== 0)) throw new Error(`${name} is damaged`);
        return [name.replace(/\.npy$/, ""), readArray(plain)];
      }),
    );
    return Object.fromEntries(arrays);
  } catch (error) {
    throw modelError(`the model's tables cannot be read (${/** @type {Error} */ (error).message})`);
  }
}

/** The entries of a ZIP archive's directory (APPNOTE 6.3). @param {Uint8Array} bytes */
function listed(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (view.getUint32(end, true) !== 0x06054b50) end--; // a comment may follow; RangeError before the start
  let at = view.getUint32(end + 16, true);
  return Array.from({ length: view.getUint16(end + 10, true) }, () => {
    if (view.getUint32(at, true) !== 0x02014b50) throw new Error("not a ZIP archive");
    const [nameBytes, extra, comment] = [28, 30, 32].map(offset => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true);
    const entry = {
      name: new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameBytes)),
      method: view.getUint16(at + 10, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      start: local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true),
    };
    at += 46 + nameBytes + extra + comment;
    return entry;
  });
}

/** An .npy file (NumPy's format 1.0 to 3.0) of integers in C order. @param {Uint8Array} bytes @returns {Integers} */
function readArray(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = bytes[6] > 1;
  const start = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const text = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const kind = KINDS[/'descr': '([^']+)'/.exec(text)?.[1] ?? ""];
  const shape = /'shape': \(([\d, ]*)\)/.exec(text)?.[1];
  if (!kind || shape === undefined || !text.includes("'fortran_order': False")) throw new Error("an array is no use");
  const sides = shape.split(",").filter(side => side.trim()).map(Number);
  const body = bytes.slice(start + length); // copied, so that it is aligned
  const data = new kind(body.buffer);
  if (data.length !== sides.reduce((product, side) => product * side, 1)) throw new Error("an array is cut off");
  return { shape: sides, data };
}
