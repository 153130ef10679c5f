// A reader of safetensors files: a header that is checked, then tensors read one by one; knows of no model.
//
// The format: 8 bytes with the header's length, little-endian; the header, JSON of
// {name: {dtype, shape, data_offsets: [begin, end]}}; then the tensors, little-endian and row-major, without gaps.
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { endianness } from "node:os";
import { basename } from "node:path";
import { COPY_AGAIN, Refused } from "./refused.mjs";

const MAX_HEADER_BYTES = 100_000_000; // as in the format's own library: a damaged length must not allocate terabytes

// dtype -> its name elsewhere, bytes per element, the array that holds it. Not every Node has one for half floats: they
// are arrays of their bits, which `numbers` widens.
export const DTYPES = new Map([
  ["F8_E4M3", ["float8_e4m3fn", 1, Uint8Array]],
  ["F8_E5M2", ["float8_e5m2", 1, Uint8Array]],
  ["BOOL", ["bool", 1, Uint8Array]],
  ["U8", ["uint8", 1, Uint8Array]],
  ["I8", ["int8", 1, Int8Array]],
  ["U16", ["uint16", 2, Uint16Array]],
  ["I16", ["int16", 2, Int16Array]],
  ["F16", ["float16", 2, Uint16Array]],
  ["BF16", ["bfloat16", 2, Uint16Array]],
  ["U32", ["uint32", 4, Uint32Array]],
  ["I32", ["int32", 4, Int32Array]],
  ["F32", ["float32", 4, Float32Array]],
  ["U64", ["uint64", 8, BigUint64Array]],
  ["I64", ["int64", 8, BigInt64Array]],
  ["F64", ["float64", 8, Float64Array]],
  ["C64", ["complex64", 8, Float32Array]], // two numbers per element
]);

/** An open file; `entries` maps a tensor's name to its `{dtype, shape, start, size}`, with dtypes like "float32". */
export class TensorFile {
  constructor(path) {
    if (endianness() !== "LE")
      throw new Refused(`${path}: this reader is for little-endian machines only`, "read it there");
    this.path = path;
    this.file = openSync(path, "r");
    try {
      this.entries = entriesOf(this.file, basename(path));
    } catch (error) {
      closeSync(this.file);
      throw error;
    }
  }

  /** One tensor as `{dtype, shape, data}`, where `data` is a typed array: of bits for half floats. */
  read(name) {
    const { dtype, shape, start, size, array } = this.entry(name);
    return { dtype, shape, data: new array(exactly(this.file, start, size, basename(this.path))) };
  }

  entry(name) {
    const entry = this.entries.get(name);
    if (entry) return entry;
    throw damaged(basename(this.path), `it has no tensor ${quoted(name)}, only ${list(this.entries.keys())}`);
  }

  close() {
    closeSync(this.file);
  }
}

/** A tensor's elements as numbers: half floats widened without loss, 64-bit integers as BigInt. */
export function numbers({ dtype, data }) {
  if (dtype.startsWith("float8")) throw new Refused(`${dtype} is not widened here`, "export with another --dtype");
  if (dtype === "bfloat16") return Float32Array.from(data, fromBfloat16);
  return dtype === "float16" ? Float32Array.from(data, fromFloat16) : data;
}

const bits = new DataView(new ArrayBuffer(4));

// bfloat16 is the upper half of a float32.
function fromBfloat16(half) {
  bits.setUint32(0, half * 2 ** 16);
  return bits.getFloat32(0);
}

// 1 sign bit, 5 of the exponent (biased by 15), 10 of the fraction, as IEEE 754 lays them out.
function fromFloat16(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : (sign * 2 ** -14 * fraction) / 1024;
}

function entriesOf(file, name) {
  const total = fstatSync(file).size;
  const length = headerLength(file, total, name);
  const header = parsed(exactly(file, 8, length, name), name);
  const begin = 8 + length;
  const entries = Object.entries(header).filter(([key]) => key !== "__metadata__");
  const checked = entries.map(([key, value]) => [key, entryOf(key, value, begin, name)]);
  refuseGaps(checked, begin, total, name);
  return new Map(checked);
}

function headerLength(file, total, name) {
  const length = total < 8 ? 0 : Number(new DataView(exactly(file, 0, 8, name)).getBigUint64(0, true));
  if (length >= 2 && length <= Math.min(total - 8, MAX_HEADER_BYTES)) return length;
  throw damaged(name, `a header of ${length} bytes cannot be, in a file of ${total}`);
}

function parsed(buffer, name) {
  try {
    const header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(buffer));
    if (header && typeof header === "object" && !Array.isArray(header)) return header;
  } catch (error) {
    throw damaged(name, `its header is no JSON: ${error.message}`);
  }
  throw damaged(name, "its header is JSON but no object");
}

function entryOf(key, value, begin, name) {
  const { dtype, shape, data_offsets: offsets } = value ?? {};
  const where = `tensor ${quoted(key)}`;
  if (!DTYPES.has(dtype)) {
    throw damaged(name, `${where} has dtype ${JSON.stringify(dtype)}, expected one of ${list(DTYPES.keys())}`);
  }
  if (!naturals(shape)) throw damaged(name, `${where} has shape ${JSON.stringify(shape)}, expected sizes`);
  if (!naturals(offsets) || offsets.length !== 2) {
    throw damaged(name, `${where} has data_offsets ${JSON.stringify(offsets)}, expected [begin, end]`);
  }
  const [called, width, array] = DTYPES.get(dtype);
  const size = shape.reduce((product, each) => product * each, width);
  const held = offsets[1] - offsets[0];
  if (size !== held)
    throw damaged(name, `${where}, ${dtype} [${shape}], takes ${size} bytes; its data_offsets hold ${held}`);
  return { dtype: called, shape, start: begin + offsets[0], size, array };
}

// Every byte belongs to exactly one tensor: what overlaps or is left over was not written by a sane writer.
function refuseGaps(entries, begin, total, name) {
  let end = begin;
  for (const [key, entry] of [...entries].sort(([, a], [, b]) => a.start - b.start || a.size - b.size)) {
    if (entry.start !== end)
      throw damaged(name, `tensor ${quoted(key)} begins at byte ${entry.start}, expected ${end}`);
    end += entry.size;
  }
  if (end !== total) throw damaged(name, `its tensors end at byte ${end}, the file at ${total}`);
}

function exactly(file, start, size, name) {
  const bytes = new Uint8Array(new ArrayBuffer(size));
  for (let done = 0; done < size;) {
    const count = readSync(file, bytes, done, Math.min(size - done, 2 ** 30), start + done);
    if (count === 0) throw damaged(name, `it ends at byte ${start + done}, expected ${start + size}`);
    done += count;
  }
  return bytes.buffer;
}

const naturals = (values) => Array.isArray(values) && values.every((each) => Number.isSafeInteger(each) && each >= 0);
const damaged = (name, what) => new Refused(`${name}: ${what}`, COPY_AGAIN);
const quoted = (name) => JSON.stringify(name);

function list(names) {
  const all = [...names];
  return all.slice(0, 10).join(", ") + (all.length > 10 ? `, ... (${all.length})` : "");
}
