// `node check.mjs DIR`: proves here, without Python, that the artifact in DIR is the model that was exported.
//
// Exit codes: 0 it is; 1 it is damaged or gives other outputs; 2 this program was not used as it is meant to be.
import { join } from "node:path";
import { compareOutputs, readGolden } from "./golden.mjs";
import { checkFiles, readProof, refuseFormat } from "./proof.mjs";
import { Misused, Refused } from "./refused.mjs";
import { checkWeights } from "./weights.mjs";

const USAGE = "usage: node check.mjs DIR, where `resumable export` wrote DIR with --format onnx or safetensors";

async function main(words) {
  if (words.length !== 1 || words[0].startsWith("-")) throw new Misused(USAGE, "give one folder");
  const [folder] = words;
  const proof = await readProof(folder);
  refuseFormat(proof);
  await checkFiles(folder, proof);
  const { source, format, entry } = proof;
  say("model", `${entry}, ${format}, from step ${source.step} of run ${source.run_id} (${source.checkpoint})`);
  say("proof", `${proof.grade} where it was exported; files as they were then: ${Object.keys(proof.files).join(", ")}`);
  await (format === "onnx" ? checkOutputs : reportWeights)(folder, proof);
}

async function reportWeights(folder, proof) {
  const { tensors, bytes } = await checkWeights(folder, proof);
  say("weights", `${tensors} tensors, ${bytes} bytes, each with the digest of the proof`);
  say("here", `weights-identical, with Node ${process.versions.node}`);
}

async function checkOutputs(folder, proof) {
  if (!proof.golden) throw new Refused("proof.json has no golden input to run", "export with --golden FILE");
  const { RUNTIME, run } = await import("./onnx.mjs"); // not loaded to compare weights
  const { inputs, outputs } = readGolden(folder, proof.golden);
  const found = await run(join(folder, proof.entry), proof.golden, inputs);
  const measured = compareOutputs(found, outputs, proof);
  for (const each of measured) say("output", `${each.name}: ${inWords(each)}`);
  const { platform, arch, versions } = process;
  say("here", `${gradeOf(measured, proof)}, with ${RUNTIME}, Node ${versions.node}, ${platform} ${arch}`);
}

function inWords({ identical, absolute, relative }) {
  if (identical) return "bit-identical";
  return `largest difference ${absolute.toExponential(2)}, relative ${relative.toExponential(2)}`;
}

function gradeOf(measured, { golden, tolerance }) {
  const batch = `golden batch of ${golden.batch_size}`;
  if (measured.every(({ identical }) => identical)) return `outputs-identical (${batch})`;
  return `outputs-within-tolerance (${tolerance?.absolute ?? 0} absolute, ${batch})`;
}

function say(what, text) {
  console.log(`${what.padEnd(8)} ${text}`);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof Refused)) throw error; // a fault of this program: Node prints where, and exits with 1
  console.error(`check: ${error.message}\n  next: ${error.hint}`);
  process.exitCode = error instanceof Misused ? 2 : 1;
}
