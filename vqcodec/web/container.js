// SPDX-License-Identifier: MIT
/**
 * The bytes of a .vqc file (docs/FORMAT.md): header, table of lengths, sections and their checksums.
 * Nothing here knows what a payload means.
 */
import { damagedError, limitError } from "./errors.js";
import { inflate } from "./zlib.js";

const MAGIC = [0xb1, 0x56, 0x51, 0x43];
const VERSION = 1;
const FIXED_BYTES = 11;
const MAX_SIDE = 2 ** 24;
const MAX_TILES = 2 ** 20;
const MAX_FURTHER = 64;
const MAX_METADATA_BYTES = 2 ** 24;
const PACKED = ["ICC profile", "EXIF data", "XMP data"];
const FURTHER = { 2: "XMP data", 3: "patches", 4: "level of removed noise" };

/**
 * @typedef {object} Header
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {number} quality 1 to 100
 * @property {"psnr" | "eye"} tune
 * @property {string} model the first four bytes of the SHA-256 of the model's tables, in hexadecimal
 * @property {boolean} gray
 * @property {boolean} srgb the picture came with a profile that says sRGB
 * @property {boolean} refinement
 * @property {boolean} alpha
 * @property {number} tileSide in pixels
 * @property {number} columns of tiles
 * @property {number} rows of tiles
 * @property {Section[]} sections in the order of the file
 * @property {number} headerBytes with its checksum
 * @property {number} crc of the header
 * @property {number} fileBytes of the whole file
 */
/**
 * @typedef {object} Section
 * @property {string} kind "ICC profile", "EXIF data", "colour layer", "base layer", "refinement layer", "alpha channel", ...
 * @property {number} tile its index; -1 where the section belongs to the whole picture
 * @property {number} number counted from 0 through the file
 * @property {number} offset in bytes from the start of the file
 * @property {number} size in bytes, without its checksum
 */

const CRC_TABLE = new Uint32Array(256).map((_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** CRC-32 of some bytes, behind those that gave `before`. @param {Uint8Array} bytes @param {number} [before] */
export function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** @param {Uint8Array} bytes @param {number} offset */
const u32 = (bytes, offset) =>
  (bytes[offset] | (bytes[offset + 1] << 8) | (bytes[offset + 2] << 16) | (bytes[offset + 3] << 24)) >>> 0;

const cutOff = () => Object.assign(damagedError("The file is cut off inside its header."), { cutOff: true });
const reserved = () => damagedError("The header uses reserved bits: the file is damaged, or written by a newer vqcodec.");

/** Reads numbers from the header, one after the other. */
class Fields {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.position = 0;
  }

  byte() {
    if (this.position >= this.bytes.length) throw cutOff();
    return this.bytes[this.position++];
  }

  /** Unsigned LEB128, at most 5 bytes, below 2^32, shortest form. */
  varint() {
    const start = this.position;
    for (let count = 0, value = 0; count < 5; count++) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** (7 * count);
      if (byte < 128) {
        if ((count && !byte) || value >= 2 ** 32) break;
        return value;
      }
    }
    throw damagedError(`The header is damaged: no valid number at byte ${start}.`);
  }
}

/**
 * Reads and verifies the header, and finds every section; looks at no byte behind the header.
 * @param {Uint8Array} bytes the file, or the first part of it
 * @returns {Header}
 * @throws {import("./errors.js").VqcError} with `cutOff` set where more bytes may help
 */
export function readHeader(bytes) {
  if (!bytes.length) throw Object.assign(damagedError("The file is empty."), { cutOff: true });
  if (MAGIC.some((value, i) => i < bytes.length && bytes[i] !== value)) throw damagedError("This is not a .vqc file.");
  if (bytes.length < MAGIC.length) throw Object.assign(damagedError("This is not a .vqc file."), { cutOff: true });
  const version = bytes[4] ?? VERSION;
  if (version > VERSION) {
    throw damagedError(`The file is written by a newer vqcodec (format version ${version}), or damaged.`);
  }
  if (version < VERSION) throw damagedError(`The file is damaged: there is no format version ${version}.`);
  if (bytes.length < FIXED_BYTES) throw cutOff();
  const fields = new Fields(bytes);
  fields.position = 5;
  const flags = fields.byte();
  const model = Array.from({ length: 4 }, () => fields.byte().toString(16).padStart(2, "0")).join("");
  let quality = fields.byte();
  let more = 0;
  if (quality & 128) {
    quality -= 128;
    more = fields.byte();
    if (more < 1 || more > 15 || (more & 1 && flags & 4)) throw reserved();
  }
  if (flags >> 5 > 2) throw reserved();
  const [width, height] = [fields.varint(), fields.varint()];
  if (quality < 1 || quality > 100 || width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE) {
    throw damagedError(`The header is damaged: quality ${quality}, ${width} x ${height} pixels is not possible.`);
  }
  const tileSide = 256 << (flags >> 5);
  const [columns, rows] = [Math.ceil(width / tileSide), Math.ceil(height / tileSide)];
  const { sections, kinds } = readTable(fields, columns * rows, flags, more);
  const end = fields.position;
  if (end + 4 > bytes.length) throw cutOff();
  const crc = u32(bytes, end);
  if (crc !== crc32(bytes.subarray(0, end))) throw damagedError("The header is damaged: its checksum does not match.");
  const unknown = kinds.find(kind => kind % 2 && !(kind in FURTHER)); // told only now: nothing is damaged
  if (unknown) throw damagedError(`The file has a section of kind ${unknown}, which only a newer vqcodec can read.`);
  let offset = end + 4;
  sections.forEach((section, number) => {
    Object.assign(section, { number, offset });
    offset += section.size + 4;
  });
  return {
    width, height, quality, tune: more & 8 ? "eye" : "psnr", model, gray: !!(flags & 1), srgb: !!(more & 1),
    refinement: !!(flags & 16), alpha: !!(flags & 2), tileSide, columns, rows, sections, headerBytes: end + 4, crc,
    fileBytes: offset,
  };
}

/** @param {Fields} fields @param {number} tiles @param {number} flags @param {number} more */
function readTable(fields, tiles, flags, more) {
  const layers = flags & 16 ? ["base layer", "refinement layer"] : ["base layer"];
  if (tiles > MAX_TILES) throw damagedError(`The header is damaged: ${tiles} tiles are more than a .vqc file can have.`);
  if (fields.position + tiles * layers.length + 4 > fields.bytes.length) throw cutOff(); // each takes a byte or more
  const sections = /** @type {Section[]} */ ([]);
  const add = (kind, tile, unit) => sections.push({ kind, tile, number: 0, offset: 0, size: unit * fields.varint() });
  if (flags & 4) add("ICC profile", -1, 1);
  if (flags & 8) add("EXIF data", -1, 1);
  if (more & 4) add("colour layer", -1, 4);
  for (const kind of layers) for (let tile = 0; tile < tiles; tile++) add(kind, tile, 4);
  if (flags & 2) add("alpha channel", -1, 1);
  const kinds = /** @type {number[]} */ ([]);
  if (more & 2) {
    const count = fields.varint();
    if (count < 1 || count > MAX_FURTHER) {
      throw damagedError(`The header is damaged: ${count} further sections are not possible.`);
    }
    for (let i = 0; i < count; i++) {
      const kind = fields.varint();
      if (kind <= (kinds.at(-1) ?? 0)) {
        throw damagedError("The header is damaged: the kinds of its further sections do not ascend.");
      }
      kinds.push(kind);
      add(FURTHER[kind] ?? `section of kind ${kind}`, -1, 1);
    }
  }
  return { sections, kinds };
}

/** "tile 2 (x 1024..2047, y 0..511)" @param {Header} header @param {number} tile */
export function placeOf(header, tile) {
  const side = header.tileSide;
  const [x, y] = [(tile % header.columns) * side, Math.floor(tile / header.columns) * side];
  const [right, bottom] = [Math.min(x + side, header.width) - 1, Math.min(y + side, header.height) - 1];
  return `tile ${tile} (x ${x}..${right}, y ${y}..${bottom})`;
}

/** @param {Header} header @param {Section} section */
const named = (header, section) =>
  (section.tile < 0 ? "" : `${placeOf(header, section.tile)}, `) + section.kind;

/**
 * The bytes of a section, verified.
 * @param {Uint8Array} bytes the file up to the end of this section at least
 * @param {Header} header @param {Section} section
 */
export function sectionBody(bytes, header, section) {
  const end = section.offset + section.size;
  const body = bytes.subarray(section.offset, end);
  const seed = new Uint8Array(new Uint32Array([header.crc, section.number]).buffer);
  if (end + 4 > bytes.length || u32(bytes, end) !== crc32(body, crc32(seed))) {
    throw damagedError(`${named(header, section)}: checksum does not match; the file is damaged.`);
  }
  return body;
}

/**
 * Holds the size of the file against what its header says.
 * @param {Header} header @param {number} size of what is there, in bytes @param {boolean} whole no more will come
 */
export function checkSize(header, size, whole) {
  if (size > header.fileBytes) {
    throw damagedError(`${size - header.fileBytes} bytes follow the end of the picture; the file is damaged.`);
  }
  if (!whole || size === header.fileBytes) return;
  const missing = header.sections.filter(section => section.offset + section.size + 4 > size);
  const others = missing.length > 1 ? ` and ${missing.length - 1} sections behind it are` : " is";
  const start = `The file is cut off, ${size} of ${header.fileBytes} bytes are there: `;
  throw damagedError(`${start}${named(header, missing[0])}${others} missing.`);
}

/** @param {Header} header @param {number} maxPixels */
export function checkPixels(header, maxPixels) {
  if (header.width * header.height > maxPixels) {
    throw limitError(
      `The picture is ${header.width} x ${header.height} pixels, more than the limit of ${maxPixels}; ` +
        "raise the limit if you trust the file.",
    );
  }
}

/**
 * The uncompressed ICC profile, EXIF data and XMP of a whole file; every other section is verified, too.
 * @param {Uint8Array} bytes @param {Header} header
 * @returns {Promise<{icc?: Uint8Array, exif?: Uint8Array, xmp?: Uint8Array}>}
 */
export async function readMetadata(bytes, header) {
  const found = {};
  for (const section of header.sections) {
    const body = sectionBody(bytes, header, section);
    if (PACKED.includes(section.kind)) {
      found[section.kind.slice(0, section.kind.indexOf(" ")).toLowerCase()] =
        await inflate(body, MAX_METADATA_BYTES, section.kind);
    }
  }
  return found;
}
