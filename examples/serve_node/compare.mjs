// How far two tensors of one shape lie apart; knows of no tolerance.
import { numbers } from "./safetensors.mjs";

/**
 * The largest difference between two tensors `{dtype, shape, data}`, as `{identical, absolute, relative}`.
 *
 * `identical`: bit for bit. `relative` is against what was expected, where that is not 0. A NaN equals a NaN; anything
 * else beside a NaN, or beside an infinity, is infinitely far away.
 */
export function difference(found, expected) {
  const [ours, theirs] = [numbers(found), numbers(expected)];
  const largest = { identical: sameBits(found.data, expected.data), absolute: 0, relative: 0 };
  for (let i = 0; i < theirs.length; i++) {
    const absolute = distance(ours[i], theirs[i]);
    largest.absolute = Math.max(largest.absolute, absolute);
    if (absolute && Number(theirs[i]))
      largest.relative = Math.max(largest.relative, absolute / Math.abs(Number(theirs[i])));
  }
  return largest;
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
