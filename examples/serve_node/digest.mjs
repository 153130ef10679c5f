// XXH3-128 of parts of files, a piece at a time: finds damage, proves nothing against a forger.
import { readSync } from "node:fs";
import hashes from "hash-wasm";

const PIECE_BYTES = 16 * 2 ** 20;

/** 32 hexadecimal digits for the `size` bytes from `start` on of an open file; shorter where the file ends. */
export async function digestOf(file, start, size) {
  const hasher = (await hashes.createXXHash128()).init();
  const piece = Buffer.alloc(Math.min(size, PIECE_BYTES));
  for (let done = 0; done < size;) {
    const count = readSync(file, piece, 0, Math.min(piece.length, size - done), start + done);
    if (count === 0) break;
    hasher.update(piece.subarray(0, count));
    done += count;
  }
  return hasher.digest("hex");
}

/** The same for bytes in memory. */
export const digestOfBytes = (bytes) => hashes.xxhash128(bytes);
