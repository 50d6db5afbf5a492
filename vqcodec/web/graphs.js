// SPDX-License-Identifier: MIT
/**
 * The priors' networks as ONNX graphs with 8-bit kernels, built from the model's tables: the same nodes as those of
 * vqcodec/train/prior_graph.py, so that a page fetches every weight once. And the engine that runs them, which is held
 * to the plain one: a graph must give its answer to a small question before it is trusted.
 */
import { ACTIVE, LIMIT, Plain, SIGNED, counted } from "./layers.js";
import { joined } from "./zlib.js";

const MICROSOFT = "com.microsoft"; // operators of ONNX Runtime's own
const TYPES = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7 };
const FLOAT_ATTRIBUTE = 1, INT_ATTRIBUTE = 2, INTS_ATTRIBUTE = 7;

// ---- protocol buffers: fields as bytes, in the order in which they are given ------------------------------------------

const text = value => new TextEncoder().encode(value);

function varint(value) {
  const bytes = [];
  for (let rest = BigInt.asUintN(64, BigInt(value)); ; rest >>= 7n) {
    if (rest < 128n) return Uint8Array.of(...bytes, Number(rest));
    bytes.push(Number(rest & 127n) | 128);
  }
}

/** Fields [number, value] of a message; a value is a number, a string, or bytes. */
const message = fields =>
  joined(
    fields.flatMap(([number, value]) => {
      if (typeof value === "number") return [varint(number * 8), varint(value)];
      const body = typeof value === "string" ? text(value) : value;
      return [varint(number * 8 + 2), varint(body.length), body];
    }),
  );

const float = (number, value) => joined([varint(number * 8 + 5), new Uint8Array(new Float32Array([value]).buffer)]);

function attribute(name, value) {
  const start = message([[1, name]]);
  if (Array.isArray(value)) return joined([start, message([...value.map(one => [8, one]), [20, INTS_ATTRIBUTE]])]);
  if (Number.isInteger(value)) return joined([start, message([[3, value], [20, INT_ATTRIBUTE]])]);
  return joined([start, float(2, value), message([[20, FLOAT_ATTRIBUTE]])]);
}

const typed = (name, type, shape) => {
  const sides = shape.map(side => [1, message([typeof side === "string" ? [2, side] : [1, side]])]);
  const tensor = message([[1, TYPES[type]], ...(shape.length ? [[2, message(sides)]] : [])]);
  return message([[1, name], [2, message([[1, tensor]])]]);
};

// ---- a growing graph; each method adds nodes and returns the name of the output ----------------------------------------

class Graph {
  /** @param {import("./layers.js").Arrays} arrays */
  constructor(arrays) {
    this.arrays = arrays;
    this.nodes = [];
    this.constants = [];
    this.count = 0;
  }

  constant(type, shape, data) {
    const name = `c${this.constants.length}`;
    const raw = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.constants.push(message([...shape.map(side => [1, side]), [2, TYPES[type]], [8, name], [9, raw]]));
    return name;
  }

  number(value) {
    return this.constant("float32", [], Float32Array.of(value));
  }

  zero(low) {
    return this.constant("uint8", [], Uint8Array.of(-low));
  }

  node(kind, inputs, { domain = "", ...attributes } = {}, output = `t${this.count++}`) {
    const more = Object.entries(attributes).map(([name, value]) => [5, attribute(name, value)]);
    this.nodes.push(message([...inputs.map(input => [1, input]), [2, output], [4, kind], ...more, [7, domain]]));
    return output;
  }

  rounded(x, low = SIGNED, step = 1) {
    return this.node("QuantizeLinear", [x, this.number(step), this.zero(low)]);
  }

  take(x, channels, inputs, low = SIGNED) {
    const coarse = this.rounded(x, low);
    if (inputs === channels) return coarse;
    const back = this.node("DequantizeLinear", [coarse, this.number(1), this.zero(low)]);
    const fine = this.rounded(this.node("Sub", [x, back]), low, 1 / 8);
    return this.node("Concat", [coarse, fine], { axis: -1 });
  }

  shape(name) {
    return this.arrays[`${name}.weight`].shape;
  }

  /** Some outputs of a linear layer. */
  linear(codes, name, low = SIGNED, from = 0, to = this.shape(name)[0]) {
    const [weight, bias, shift] = ["weight", "bias", "shift"].map(part => this.arrays[`${name}.${part}`].data);
    const inputs = this.shape(name)[1], outputs = to - from, turned = new Int8Array(inputs * outputs);
    for (let o = 0; o < outputs; o++) for (let i = 0; i < inputs; i++) turned[i * outputs + o] = weight[(from + o) * inputs + i];
    const constants = [
      this.constant("int8", [inputs, outputs], turned),
      this.number(1),
      this.constant("float32", [outputs], Float32Array.from(shift.subarray(from, to), value => 2 ** -value)),
      this.zero(low),
      this.constant("int8", [outputs], new Int8Array(outputs)),
      this.constant("float32", [outputs], Float32Array.from(bias.subarray(from, to), value => value / 1024)),
    ];
    return this.node("MatMulIntegerToFloat", [codes, ...constants], { domain: MICROSOFT });
  }

  leaky(x) {
    return this.node("LeakyRelu", [x], { alpha: 0.125 });
  }

  depthwise(codes, name) {
    const [weight, bias, shift] = ["weight", "bias", "shift"].map(part => this.arrays[`${name}.${part}`].data);
    const channels = this.shape(name)[0];
    const constants = [
      this.number(1),
      this.zero(ACTIVE),
      this.constant("int8", [channels, 1, 3, 3], Int8Array.from(weight)),
      this.constant("float32", [channels], Float32Array.from(shift, value => 2 ** -value)),
      this.constant("int8", [channels], new Int8Array(channels)),
      this.number(1),
      this.zero(SIGNED),
      this.constant("int32", [channels], Int32Array.from(bias)),
    ];
    const attributes = { channels_last: 1, group: channels, kernel_shape: [3, 3], pads: [1, 1, 1, 1] };
    return this.node("QLinearConv", [codes, ...constants], { domain: MICROSOFT, ...attributes });
  }

  clipped(x) {
    return this.node("Clip", [x, this.number(-LIMIT), this.number(LIMIT)]);
  }

  /** [1, h, w, C] -> [h w, C]. */
  flat(x, channels) {
    return this.node("Reshape", [x, this.constant("int64", [2], BigInt64Array.of(-1n, BigInt(channels)))]);
  }

  gather(x, channels) {
    return this.node("Gather", [this.flat(x, channels), "where"], { axis: 0 });
  }

  block(x, name, gathered = false) {
    const [channels, inputs] = [this.shape(`${name}.leave`)[0], this.shape(`${name}.enter`)[1]];
    const wide = this.leaky(this.linear(this.take(x, channels, inputs), `${name}.enter`));
    let inner = this.depthwise(this.rounded(wide, ACTIVE), `${name}.depthwise`);
    if (gathered) [x, inner] = [this.gather(x, channels), this.gather(inner, this.shape(`${name}.depthwise`)[0])];
    x = this.clipped(this.node("Add", [x, this.linear(inner, `${name}.leave`)]));
    if (!Object.hasOwn(this.arrays, `${name}.expand.weight`)) return x;
    const [middle, wanted] = this.shape(`${name}.expand`);
    const wider = this.leaky(this.linear(this.take(x, channels, wanted), `${name}.expand`));
    const codes = this.take(wider, middle, this.shape(`${name}.reduce`)[1], ACTIVE);
    return this.clipped(this.node("Add", [x, this.linear(codes, `${name}.reduce`, ACTIVE)]));
  }

  /** The bytes of the graph; inputs as [type, shape], outputs as [type, value]. */
  bytes(inputs, outputs) {
    for (const [name, [, value]] of Object.entries(outputs)) this.node("Identity", [value], {}, name);
    const graph = message([
      ...this.nodes.map(node => [1, node]),
      [2, "prior"],
      ...this.constants.map(constant => [5, constant]),
      ...Object.entries(inputs).map(([name, [type, shape]]) => [11, typed(name, type, shape)]),
      ...Object.entries(outputs).map(([name, [type]]) => [12, typed(name, type, [])]),
    ]);
    const versions = [["", 17], [MICROSOFT, 1]].map(([domain, version]) => [8, message([[1, domain], [2, version]])]);
    return message([[1, 8], [2, "vqcodec"], [7, graph], ...versions]);
  }
}

function baseGraph(arrays) {
  const g = new Graph(arrays), [channels, inputs] = g.shape("prior.enter");
  let x = g.clipped(g.linear("code", "prior.enter"));
  for (let i = 0; i < counted(arrays, "prior.blocks."); i++) x = g.block(x, `prior.blocks.${i}`);
  const features = g.take(x, channels, g.shape("prior.steps.0.join")[1]);
  const means = g.linear(g.take(x, channels, g.shape("prior.base_mean")[1]), "prior.base_mean");
  return g.bytes({ code: ["uint8", [1, "h", "w", inputs]] }, { features: ["uint8", features], means: ["float32", means] });
}

function stepGraph(arrays, number, half) {
  const g = new Graph(arrays), name = `prior.steps.${number}`, grid = [1, "h", "w"];
  const [channels, inputs] = g.shape(`${name}.join`), features = g.shape("prior.steps.0.join")[1];
  const seen = inputs - features - (number ? channels : 0), count = g.shape(`${name}.out`)[0] / 2;
  const shapes = { features: ["uint8", [...grid, features]] };
  const parts = ["features"];
  if (seen) {
    shapes.known = ["uint8", [...grid, 2 * arrays["prior.base_scale"].data.length]];
    const limits = [0, seen, 3].map(value => g.constant("int64", [1], BigInt64Array.of(BigInt(value))));
    parts.push(g.node("Slice", ["known", ...limits]));
  }
  if (number) {
    shapes.before = ["uint8", [...grid, channels]];
    parts.push("before");
  }
  Object.assign(shapes, { quality: ["float32", [channels]], ratio: ["float32", ["m", count]] });
  if (half) shapes.where = ["int32", ["n"]];
  const codes = parts.length > 1 ? g.node("Concat", parts, { axis: -1 }) : parts[0];
  let x = g.clipped(g.node("Add", [g.linear(codes, `${name}.join`), "quality"]));
  x = g.block(x, `${name}.block1`);
  const after = g.rounded(x);
  x = g.block(x, `${name}.block2`, half);
  const taken = g.take(x, channels, g.shape(`${name}.out`)[1]);
  const flat = value => (half ? value : g.flat(value, count));
  const means = flat(g.linear(taken, `${name}.out`, SIGNED, 0, count));
  const scales = g.node("Add", [flat(g.linear(taken, `${name}.out`, SIGNED, count, 2 * count)), "ratio"]);
  const clipped = g.node("Clip", [scales, g.number(0), g.number(63)]);
  const classes = g.node("QuantizeLinear", [clipped, g.number(1), g.zero(0)]);
  return g.bytes(shapes, { means: ["float32", means], classes: ["uint8", classes], after: ["uint8", after] });
}

function indicesGraph(arrays) {
  const g = new Graph(arrays), [channels, inputs] = g.shape("base_prior.enter");
  let x = g.leaky(g.node("Add", [g.linear("code", "base_prior.enter"), "offset"]));
  x = g.depthwise(g.rounded(x, ACTIVE), "base_prior.spread");
  x = g.node("DequantizeLinear", [x, g.number(1), g.zero(SIGNED)]);
  const blocks = counted(arrays, "base_prior.blocks.");
  for (let i = 0; i < blocks; i++) x = g.block(x, `base_prior.blocks.${i}`, i === blocks - 1);
  const logits = g.linear(g.take(x, channels, g.shape("base_prior.out")[1]), "base_prior.out");
  const shapes = { code: ["uint8", [1, "h", "w", inputs]], offset: ["float32", [channels]], where: ["int32", ["n"]] };
  return g.bytes(shapes, { logits: ["float32", logits] });
}

// ---- the engine ------------------------------------------------------------------------------------------------------

const PROBED = { height: 3, width: 4 }; // the grid of the small question

/** Codes for it, as many channels as `like` has; every other one is an extreme. */
function probe(like, grid) {
  const channels = like.length / (grid.height * grid.width);
  return Uint8Array.from({ length: 12 * channels }, (_, n) => {
    const number = Math.imul(n, 2654435761 | 0) >>> 11;
    return number & 1024 ? 255 * ((number >> 9) & 1) : number & 255;
  });
}

/** @implements {import("./layers.js").Engine} */
export class OnnxEngine {
  /**
   * @param {import("./layers.js").Arrays} arrays
   * @param {import("./session.js").Runtime} runtime
   * @param {(message: string) => void} warn
   */
  constructor(arrays, runtime, warn) {
    this.arrays = arrays;
    this.runtime = runtime;
    this.warn = warn;
    this.plain = new Plain(arrays);
    this.trusted = true;
    /** @type {Map<string, Promise<any>>} */
    this.sessions = new Map();
  }

  /** What the graph of a name gives, or the plain engine where that is not to be trusted. */
  async _ask(name, build, run, question, plainly) {
    if (this.trusted) {
      let asked = this.sessions.get(name);
      if (!asked) this.sessions.set(name, (asked = this._loaded(build, run, question)));
      const session = await asked;
      if (session) return run(session);
      if (this.trusted) this.warn(`the graph ${name} does not give the numbers that it must give; going on in JavaScript, slower and exact`);
      this.trusted = false;
    }
    return plainly();
  }

  /** The session of a graph, or null where it gives other numbers than the plain engine. */
  async _loaded(build, run, question) {
    const session = await this.runtime.session(build(), { optimise: false });
    const [found, expected] = await question(session);
    const same = Object.keys(expected).every(
      key => found[key].length === expected[key].length && expected[key].every((value, i) => found[key][i] === value),
    );
    return same ? session : null;
  }

  async base(code, grid) {
    const run = (session, bytes = code, on = grid) => this._run(session, { code: ["uint8", bytes] }, on);
    const question = async session => {
      const small = probe(code, grid);
      return [await run(session, small, PROBED), await this.plain.base(small, PROBED)];
    };
    return this._ask("base", () => baseGraph(this.arrays), run, question, () => this.plain.base(code, grid));
  }

  async step(number, inputs, grid) {
    const run = (session, { features, known, before, quality, ratio, where } = inputs, on = grid) => {
      const count = on.height * on.width;
      const feeds = { features: ["uint8", features], quality: ["float32", quality, [quality.length]] };
      if (number) Object.assign(feeds, { known: ["uint8", known], before: ["uint8", before] });
      const columns = this.arrays[`prior.steps.${number}.mean_scale`].data.length;
      feeds.ratio = ["float32", ratio, [ratio.length / columns, columns]];
      if (where) feeds.where = ["int32", where, [where.length]];
      return this._run(session, feeds, on, count);
    };
    const question = async session => {
      const { features, known, before, quality, where } = inputs;
      const small = {
        features: probe(features, grid), known: probe(known, grid), before: before && probe(before, grid), quality,
        ratio: new Float32Array(this.arrays[`prior.steps.${number}.mean_scale`].data.length),
        where: where && Int32Array.of(1, 3, 5, 7, 9, 11),
      };
      return [await run(session, small, PROBED), await this.plain.step(number, small, PROBED)];
    };
    const build = () => stepGraph(this.arrays, number, !!inputs.where);
    return this._ask(`step-${number}`, build, run, question, () => this.plain.step(number, inputs, grid));
  }

  async indices(code, offset, where, grid) {
    const run = async (session, bytes = code, places = where, on = grid) => {
      const feeds = { code: ["uint8", bytes], offset: ["float32", offset, [offset.length]], where: ["int32", places, [places.length]] };
      return (await this._run(session, feeds, on)).logits;
    };
    const question = async session => {
      const small = probe(code, grid), places = Int32Array.of(1, 3, 5, 7, 9, 11);
      return [[await run(session, small, places, PROBED)], [await this.plain.indices(small, offset, places, PROBED)]];
    };
    const plainly = () => this.plain.indices(code, offset, where, grid);
    return this._ask("indices", () => indicesGraph(this.arrays), run, question, plainly);
  }

  /** Feeds [type, data, shape], the shape [1, h, w, C] where there is none. */
  _run(session, feeds, { height, width }) {
    const shaped = Object.entries(feeds).map(([name, [type, data, shape]]) => [
      name, [type, data, shape ?? [1, height, width, data.length / (height * width)]],
    ]);
    return this.runtime.run(session, Object.fromEntries(shaped));
  }
}
