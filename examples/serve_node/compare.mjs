// How far two tensors of one shape lie apart; knows of no tolerance.
import { numbers } from "./safetensors.mjs";

/**
 * The largest difference between two tensors `{dtype, shape, data}`, as `{identical, absolute, relative}`.
 *
 * `identical`: bit for bit. `relative`: to the largest number that was expected. A NaN equals a NaN; all else beside
 * a NaN, or beside an infinity, is infinitely far away.
 */
export function difference(found, expected) {
  const [ours, theirs] = [numbers(found), numbers(expected)];
  let [absolute, largest] = [0, 0];
  for (let i = 0; i < theirs.length; i++) {
    absolute = Math.max(absolute, distance(ours[i], theirs[i]));
    const size = Math.abs(Number(theirs[i]));
    if (Number.isFinite(size)) largest = Math.max(largest, size);
  }
  return { identical: sameBits(found.data, expected.data), absolute, relative: absolute && absolute / largest };
}

function distance(a, b) {
  if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return 0;
  const apart = Math.abs(Number(a - b)); // subtracted first: two large BigInts may be one Number
  return Number.isNaN(apart) ? Infinity : apart;
}

function sameBits(a, b) {
  const bytes = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);
  return bytes(a).equals(bytes(b));
}
