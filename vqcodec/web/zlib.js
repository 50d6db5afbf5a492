// SPDX-License-Identifier: MIT
/** zlib streams by the platform's own DecompressionStream, which ends nowhere but at the end of the stream. */
import { damagedError } from "./errors.js";

/**
 * @param {Uint8Array} bytes a whole zlib stream and nothing behind it
 * @param {number} limit of what it may unpack to, in bytes
 * @param {string} kind for the error's sentence
 * @param {CompressionFormat} [format]
 * @returns {Promise<Uint8Array>}
 */
export async function inflate(bytes, limit, kind, format = "deflate") {
  const parts = [];
  let size = 0;
  try {
    const reader = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(new DecompressionStream(format)).getReader();
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
      size += value.length;
      if (size > limit) {
        await reader.cancel().catch(() => {});
        break;
      }
      parts.push(value);
    }
  } catch {
    throw damagedError(`${kind}: not a zlib stream of its section's length; the file is damaged.`);
  }
  if (size > limit) throw damagedError(`${kind}: more than ${limit} bytes uncompressed, which no file may have.`);
  return joined(parts, size);
}

/** @param {Uint8Array} bytes @returns {Promise<Uint8Array>} a zlib stream */
export async function deflate(bytes) {
  const stream = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @param {Uint8Array[]} parts @param {number} [size] their sum */
export function joined(parts, size = parts.reduce((sum, part) => sum + part.length, 0)) {
  const out = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
