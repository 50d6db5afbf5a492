// SPDX-License-Identifier: MIT
/** SHA-256 (FIPS 180-4): the platform's, or this one on pages served by plain http, where that is withheld. */

/** @param {Uint8Array} bytes @returns {Promise<string>} in hexadecimal */
export async function sha256(bytes) {
  const digest = globalThis.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", /** @type {BufferSource} */ (bytes))) : plainly(bytes);
  return Array.from(digest, byte => byte.toString(16).padStart(2, "0")).join("");
}

/** The first 32 bits of the fractions of the cube and square roots of the first primes. */
const PRIMES = [];
for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every(prime => n % prime)) PRIMES.push(n);
/** floor(2^32 root(n)) mod 2^32, exactly: the largest x with x^power <= n 2^(32 power). */
function fraction(n, power) {
  const wanted = BigInt(n) << BigInt(32 * power);
  let x = BigInt(Math.floor(n ** (1 / power) * 2 ** 32));
  while (x ** BigInt(power) > wanted) x--;
  while ((x + 1n) ** BigInt(power) <= wanted) x++;
  return Number(x & 0xffffffffn);
}

/** @param {Uint8Array} bytes */
export function plainly(bytes) {
  const rounds = Uint32Array.from(PRIMES, prime => fraction(prime, 3));
  const state = Uint32Array.from(PRIMES.slice(0, 8), prime => fraction(prime, 2));
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64), view = new DataView(padded.buffer);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, (bytes.length << 3) >>> 0);
  const w = new Uint32Array(64), turned = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [p, q] = [w[i - 15], w[i - 2]];
      w[i] = w[i - 16] + (turned(p, 7) ^ turned(p, 18) ^ (p >>> 3)) + w[i - 7] + (turned(q, 17) ^ turned(q, 19) ^ (q >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + rounds[i] + w[i]) | 0;
      const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] += value));
  }
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((value, i) => out.setUint32(4 * i, value));
  return new Uint8Array(out.buffer);
}
