// The tensors of a safetensors artifact, one file or many, against their digests in the proof.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { digestOf } from "./digest.mjs";
import { COPY_AGAIN, Refused, refuseOtherKind } from "./refused.mjs";
import { DTYPES, TensorFile } from "./safetensors.mjs";

const NAMES = new Set([...DTYPES.values()].map(([name]) => name));

/** How many tensors and bytes were found, each with the dtype, the shape and the digest of the proof. */
export async function checkWeights(folder, { entry, files, weights }) {
  const counted = { tensors: 0, bytes: 0 };
  const places = placesOf(folder, entry, files);
  const missing = new Set(Object.keys(weights.tensors));
  for (const name of places.keys()) {
    const file = new TensorFile(join(folder, name));
    try {
      for (const [key, found] of file.entries) {
        refuseMisplaced(places.get(name), name, key);
        await checkTensor(file, `${name}: ${key}`, found, expectedOf(weights, key, name));
        missing.delete(key);
        counted.tensors += 1;
        counted.bytes += found.size;
      }
    } finally {
      file.close();
    }
  }
  if (missing.size) throw new Refused(`tensors of proof.json are in no file: ${[...missing].join(", ")}`, COPY_AGAIN);
  return counted;
}

// File -> the names it should hold; null where any will do, because it is the only one.
function placesOf(folder, entry, files) {
  if (!entry.endsWith(".index.json")) return new Map([[entry, null]]);
  const places = new Map();
  for (const [key, name] of Object.entries(JSON.parse(readFileSync(join(folder, entry), "utf-8")).weight_map)) {
    if (!Object.hasOwn(files, name))
      throw new Refused(`${entry}: ${key} is in ${name}, which proof.json does not name`, COPY_AGAIN);
    places.set(name, (places.get(name) ?? new Set()).add(key));
  }
  return places;
}

function refuseMisplaced(expected, name, key) {
  if (expected && !expected.has(key))
    throw new Refused(`${name} holds ${key}, which the index does not place there`, COPY_AGAIN);
}

// A tied name is stored once, under the other; a file that holds it all the same must hold the same bytes.
function expectedOf({ tensors, tied }, key, name) {
  const stored = Object.hasOwn(tied, key) ? tied[key] : key;
  if (Object.hasOwn(tensors, stored)) return tensors[stored];
  throw new Refused(`${name}: ${key} is no tensor of proof.json`, "this proof is of another model: export again");
}

async function checkTensor(file, where, found, expected) {
  // What the format has no dtype for is stored as bytes, with a dimension more: then the digest alone decides.
  if (NAMES.has(expected.dtype)) refuseOtherKind(where, found, expected, COPY_AGAIN);
  const digest = await digestOf(file.file, found.start, found.size);
  if (digest !== expected.digest)
    throw new Refused(`${where}: digest ${digest}, expected ${expected.digest}`, COPY_AGAIN);
}
