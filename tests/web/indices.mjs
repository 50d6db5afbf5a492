// SPDX-License-Identifier: MIT
// The indices of a .vqc file as tests/golden/make.py takes them: sha256 of their little-endian int32 bytes.

/**
 * @param {(name: string) => Promise<any>} from gives a module of vqcodec/web
 * @param {Uint8Array} bytes
 * @param {(checksum: string) => Promise<any>} modelOf
 */
export async function indices(from, bytes, modelOf) {
  const { Arriving, Picture, headerOf } = await from("decoder.js");
  const { readMetadata, checkSize } = await from("container.js");
  const { sha256 } = await from("sha256.js");
  const source = Arriving.of(bytes), header = await headerOf(source);
  checkSize(header, bytes.length, true);
  await readMetadata(bytes, header);
  const model = await modelOf(header.model);
  const picture = new Picture(source, header, model, { x0: 0, y0: 0, x1: header.width, y1: header.height });
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
  const digest = array => (array ? sha256(new Uint8Array(array.buffer)) : null);
  const below = (row, rest) => Int32Array.from([...row, ...rest]);
  return {
    base_shape: [height, width],
    base: await digest(picture.base),
    refinement: await digest(refinement),
    colour: await digest(colour && below(Array(3).fill(polynomialExponent), colour)),
    drift: await digest(shifts && below(Array(3 * size.columns).fill(exponent), shifts)),
  };
}
