// Reads an artifact's proof.json and checks the files that it names; runs no model.
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { digestOf, digestOfBytes } from "./digest.mjs";
import { COPY_AGAIN, Misused, Refused } from "./refused.mjs";

const VERSION = 1;
const MAX_BYTES = 64 * 2 ** 20;
const TRAILER = /,"digest":"([0-9a-f]{32})"\}$/; // the last bytes of every proof, of this and of later versions
const TRAILER_BYTES = ',"digest":""}'.length + 32;

/** The proof of the artifact in `folder`, undamaged and of a version that this program knows. */
export async function readProof(folder) {
  const bytes = contentOf(join(folder, "proof.json"), folder);
  await refuseDamage(bytes);
  const proof = JSON.parse(bytes.toString("utf-8"));
  if (proof.proof_version !== VERSION) {
    throw new Refused(
      `proof.json is of version ${proof.proof_version}, this program reads ${VERSION}`,
      "take the program of that version",
    );
  }
  refuseUnexpected(proof);
  return proof;
}

/** Every file that the proof names is there, with the size and the digest that it had when the proof was written. */
export async function checkFiles(folder, proof) {
  for (const [name, { size }] of Object.entries(proof.files)) {
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) throw wrong("files", "in this folder itself", JSON.stringify(name));
    refuseOtherSize(join(folder, name), name, size);
  }
  for (const [name, expected] of Object.entries(proof.files)) await checkFile(join(folder, name), name, expected);
}

function contentOf(path, folder) {
  try {
    const size = sizeOf(path, "proof.json");
    if (size <= MAX_BYTES) return readFileSync(path);
    throw new Refused(`proof.json has ${size} bytes, more than the ${MAX_BYTES} allowed`, COPY_AGAIN);
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused(
      `no proof can be read in ${folder}: ${error.message}`,
      "give the folder that `resumable export` wrote",
    );
  }
}

// The digest is of the bytes without it, so nothing is parsed that was not seen whole.
async function refuseDamage(bytes) {
  const trailer = TRAILER.exec(bytes.subarray(-TRAILER_BYTES).toString("latin1"));
  if (!trailer) throw new Refused("proof.json does not end in its own digest: it was cut off or edited", COPY_AGAIN);
  const found = await digestOfBytes(Buffer.concat([bytes.subarray(0, -TRAILER_BYTES), Buffer.from("}")]));
  if (found !== trailer[1]) throw new Refused(`proof.json: digest ${found}, expected ${trailer[1]}`, COPY_AGAIN);
}

// Only what this program uses; everything else in a proof is for people.
function refuseUnexpected({ grade, entry, files, weights, golden, tolerance }) {
  if (grade === null) throw new Refused("this export never came to its end, so nothing is proved", "export again");
  if (!isObject(files)) throw wrong("files", "an object", files);
  if (!Object.hasOwn(files, entry)) throw wrong("entry", "one of its files", entry);
  if (!isObject(weights?.tensors) || !isObject(weights.tied)) throw wrong("weights", "tensors and ties", weights);
  if (golden !== null && !isGolden(golden, files)) throw wrong("golden", "a file, inputs and outputs", golden);
  if (tolerance !== null && !(tolerance?.absolute >= 0)) throw wrong("tolerance", "an absolute difference", tolerance);
}

function isGolden(golden, files) {
  return Object.hasOwn(files, golden?.file) && Array.isArray(golden.inputs) && Array.isArray(golden.outputs);
}

// What a file is, is looked at before it is opened: a link leads elsewhere, and a pipe has no end.
function sizeOf(path, name) {
  const found = lstatSync(path);
  if (found.isFile()) return found.size;
  throw new Refused(`${name}: ${found.isSymbolicLink() ? "a symbolic link" : "no regular file"}`, COPY_AGAIN);
}

function refuseOtherSize(path, name, expected) {
  let found;
  try {
    found = sizeOf(path, name);
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused(`${name}, named in proof.json, cannot be read: ${error.message}`, COPY_AGAIN);
  }
  if (found !== expected) throw new Refused(`${name}: ${found} bytes, expected ${expected}`, COPY_AGAIN);
}

async function checkFile(path, name, { size, digest }) {
  const file = opened(path, name);
  try {
    const found = fstatSync(file).size;
    if (found !== size) throw new Refused(`${name}: ${found} bytes, expected ${size}`, COPY_AGAIN);
    const other = await digestOf(file, 0, size);
    if (other !== digest) throw new Refused(`${name}: digest ${other}, expected ${digest}: it is damaged`, COPY_AGAIN);
  } finally {
    closeSync(file);
  }
}

function opened(path, name) {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    throw new Refused(`${name}, named in proof.json, cannot be read: ${error.message}`, COPY_AGAIN);
  }
}

/** This program runs artifacts of two formats. */
export function refuseFormat({ format }) {
  if (format === "onnx" || format === "safetensors") return;
  throw new Misused(`Node runs no artifact of format ${JSON.stringify(format)}`, "export with --format onnx");
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const wrong = (field, expected, found) =>
  new Refused(
    `proof.json: ${field} should be ${expected}, found ${JSON.stringify(found)}`,
    "export the artifact again",
  );
