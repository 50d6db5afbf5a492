// SPDX-License-Identifier: MIT
/** The colour layer (docs/FORMAT.md): a polynomial in the restored colours, and slow shifts from place to place. */
import { RangeDecoder } from "./coder.js";
import { damagedError } from "./errors.js";
import { clip } from "./layers.js";

const CELL = 64, BLOCK = 8;
const BAND_OF = [0, 1, 2, 2, 3, 3, 3, 3];

/** Exponents [i, j, k] of every term up to a degree. @param {number} degree */
function termsOf(degree) {
  const terms = [];
  for (let n = 0; n <= degree; n++) {
    for (let i = n; i >= 0; i--) for (let j = n - i; j >= 0; j--) terms.push([i, j, n - i - j]);
  }
  return terms;
}

/**
 * Coefficients of t^i u^j v^k, each three times, from those of Legendre's polynomials: the highest j first, then the
 * highest k, then the highest i.
 * @param {Int32Array} indices [K, 3] @param {number} degree @param {number} step
 */
function inPowers(indices, degree, step) {
  const legendre = [[1], [0, 1]]; // coefficients of 1, t, t^2 ...
  for (let n = 2; n <= degree; n++) {
    const [last, before] = [legendre[n - 1], legendre[n - 2]];
    legendre.push(Array.from({ length: n + 1 }, (_, i) => ((2 * n - 1) * (last[i - 1] ?? 0) - (n - 1) * (before[i] ?? 0)) / n));
  }
  const terms = termsOf(degree), sums = new Map(terms.map(term => [`${term}`, [0, 0, 0]]));
  terms.forEach(([n, j, k], at) => {
    legendre[n].forEach((share, i) => {
      const sum = /** @type {number[]} */ (sums.get(`${[i, j, k]}`));
      for (let c = 0; c < 3; c++) sum[c] += share * step * indices[3 * at + c];
    });
  });
  const order = terms.sort((a, b) => b[1] - a[1] || b[2] - a[2] || b[0] - a[0]);
  return Float64Array.from(order.flatMap(term => /** @type {number[]} */ (sums.get(`${term}`))));
}

/** @param {number} length of a side in pixels */
const cells = length => Math.max(1, Math.floor((length + CELL / 2) / CELL));

export class ColourLayer {
  /**
   * @param {Uint8Array} payload
   * @param {import("./coder.js").ClassTables} tables
   * @param {{width: number, height: number}} picture in pixels
   */
  constructor(payload, tables, { width, height }) {
    const coder = new RangeDecoder(payload);
    const group = count => tables.read(coder, new Uint8Array(count).fill(coder.uniform(64)));
    const degree = coder.uniform(8);
    /** @type {Int32Array | null} */
    this.indices = null; // [K, 3]
    if (degree !== 5) {
      const exponent = coder.uniform(16);
      this.polynomialExponent = exponent;
      if (degree > 4) throw damagedError("the colour layer is of a degree that there is not");
      const parts = Array.from({ length: degree + 1 }, (_, n) => group((3 * (n + 1) * (n + 2)) / 2));
      this.indices = Int32Array.from(parts.flatMap(part => [...part]));
      this.coefficients = inPowers(this.indices, degree, 4 / 255 / 2 ** exponent);
      this.degree = degree;
    }
    /** @type {Int32Array | null} */
    this.shifts = null; // [rows, columns, 3]
    if (coder.uniform(2)) this._readShifts(coder, group, cells(height), cells(width));
    coder.finish("colour layer");
  }

  _readShifts(coder, group, rows, columns) {
    const exponent = coder.uniform(16), indices = new Int32Array(rows * columns * 3);
    for (let band = 0; band < 4; band++) {
      const where = [];
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) {
          if (BAND_OF[Math.max(y % BLOCK, x % BLOCK)] === band) where.push(3 * (y * columns + x));
        }
      }
      if (where.length) {
        const found = group(3 * where.length);
        where.forEach((place, n) => indices.set(found.subarray(3 * n, 3 * n + 3), place));
      }
    }
    this.shifts = indices;
    this.exponent = exponent;
    this.size = { rows, columns };
    this.offsets = offsetsOf(indices, (16 / 255) / 2 ** (exponent / 2), rows, columns);
  }

  /**
   * Corrects a piece of the picture, in place.
   * @param {Float32Array[]} planes red, green, blue, nominally in [0, 1]
   * @param {{x: number, y: number, width: number, height: number}} piece where it lies, in pixels
   */
  apply(planes, piece) {
    if (this.indices) this._polynomial(planes);
    if (this.shifts) this._shift(planes, piece);
  }

  /** Horner's rule in u, then v, then t. @param {Float32Array[]} planes */
  _polynomial([red, green, blue]) {
    const { coefficients, degree } = this;
    for (let at = 0; at < red.length; at++) {
      const r = clip(red[at], 0, 1), g = clip(green[at], 0, 1), b = clip(blue[at], 0, 1);
      const t = 2 * (0.299 * r + 0.587 * g + 0.114 * b) - 1, u = 4 * (b - g), v = 4 * (r - g);
      let dr = 0, dg = 0, db = 0, m = 0;
      for (let j = degree; j >= 0; j--) {
        let er = 0, eg = 0, eb = 0;
        for (let k = degree - j; k >= 0; k--) {
          let fr = 0, fg = 0, fb = 0;
          for (let i = degree - j - k; i >= 0; i--) {
            fr = fr * t + coefficients[m++];
            fg = fg * t + coefficients[m++];
            fb = fb * t + coefficients[m++];
          }
          er = er * v + fr;
          eg = eg * v + fg;
          eb = eb * v + fb;
        }
        dr = dr * u + er;
        dg = dg * u + eg;
        db = db * u + eb;
      }
      red[at] = r + dr;
      green[at] = g + dg;
      blue[at] = b + db;
    }
  }

  _shift(planes, piece) {
    const { rows, columns } = this.size;
    const across = Array.from({ length: piece.width }, (_, i) => between(piece.x + i, columns));
    const left = Uint32Array.from(across, ([cell]) => cell), right = Float64Array.from(across, ([, share]) => share);
    const line = new Float64Array(columns + 1); // the last one stands for what lies beyond
    for (let y = 0; y < piece.height; y++) {
      const [row, below] = between(piece.y + y, rows), next = Math.min(row + 1, rows - 1);
      planes.forEach((plane, c) => {
        for (let x = 0; x < columns; x++) {
          line[x] = (1 - below) * this.offsets[3 * (row * columns + x) + c] + below * this.offsets[3 * (next * columns + x) + c];
        }
        line[columns] = line[columns - 1];
        for (let x = 0, at = y * piece.width; x < piece.width; x++, at++) {
          plane[at] += line[left[x]] + right[x] * (line[left[x] + 1] - line[left[x]]);
        }
      });
    }
  }
}

/** The cell before a pixel's middle, and how far towards the next one it lies. */
function between(pixel, count) {
  const place = Math.min(Math.max((pixel + 0.5) / CELL - 0.5, 0), count - 1);
  return [Math.floor(place), place - Math.floor(place)];
}

/** Offsets of red, green and blue of every cell: DCTs of blocks of cells, and a change of components. */
function offsetsOf(indices, step, rows, columns) {
  const out = new Float64Array(indices.length);
  for (let top = 0; top < rows; top += BLOCK) {
    for (let left = 0; left < columns; left += BLOCK) {
      const m = Math.min(BLOCK, rows - top), n = Math.min(BLOCK, columns - left);
      for (let y = 0; y < m; y++) {
        for (let x = 0; x < n; x++) {
          const sums = [0, 0, 0];
          for (let u = 0; u < m; u++) {
            for (let v = 0; v < n; v++) {
              const weight = step * wave(u, y, m) * wave(v, x, n), at = 3 * ((top + u) * columns + left + v);
              for (let c = 0; c < 3; c++) sums[c] += indices[at + c] * weight;
            }
          }
          const [p, q, s] = [sums[0] / Math.sqrt(3), sums[1] / Math.sqrt(2), sums[2] / Math.sqrt(6)];
          out.set([p + q - s, p + 2 * s, p - q - s], 3 * ((top + y) * columns + left + x));
        }
      }
    }
  }
  return out;
}

/** A sample of the orthonormal DCT's basis. */
const wave = (frequency, place, size) =>
  Math.sqrt((frequency ? 2 : 1) / size) * Math.cos((Math.PI * frequency * (place + 0.5)) / size);
