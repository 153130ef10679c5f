// Runs an ONNX model on golden inputs in onnxruntime-node, on the CPU; judges no output.
import ort from "onnxruntime-node";
import { Refused } from "./refused.mjs";

export const RUNTIME = `onnxruntime-node ${ort.env.versions.node}`;

/** The outputs `{dtype, shape, data}` of the model at `path`, in the order of the proof. */
export async function run(path, golden, inputs) {
  const session = await loaded(path);
  sameNames("inputs", session.inputNames, golden.inputs);
  sameNames("outputs", session.outputNames, golden.outputs);
  const feeds = Object.fromEntries(golden.inputs.map(({ name }, i) => [name, tensorOf(name, inputs[i])]));
  const outputs = await ran(session, feeds);
  return golden.outputs.map(({ name }) => {
    const { type, dims, data } = outputs[name];
    return { dtype: type, shape: [...dims], data: type === "float16" ? bitsOf(data) : data };
  });
}

// By its path and not its bytes: large models keep their weights in a second file beside it.
async function loaded(path) {
  try {
    return await ort.InferenceSession.create(path, { executionProviders: ["cpu"], logSeverityLevel: 3 });
  } catch (error) {
    throw new Refused(
      `${RUNTIME} does not load ${path}: ${error.message}`,
      "export for the opset of this runtime, or update it",
    );
  }
}

async function ran(session, feeds) {
  try {
    return await session.run(feeds);
  } catch (error) {
    throw new Refused(
      `${RUNTIME} fails on the golden input: ${error.message}`,
      "prove the artifact where it was exported: resumable verify",
    );
  }
}

function sameNames(what, found, expected) {
  const names = expected.map(({ name }) => name);
  if (JSON.stringify([...found].sort()) === JSON.stringify([...names].sort())) return;
  throw new Refused(
    `the model's ${what} are ${found.join(", ")}; proof.json names ${names.join(", ")}`,
    "this proof is of another model: export again",
  );
}

function tensorOf(name, { dtype, shape, data }) {
  if (dtype === "bfloat16")
    throw new Refused(`input ${name} is bfloat16, which ${RUNTIME} does not take`, "export a float32 model");
  return new ort.Tensor(dtype, data, shape);
}

// Newer versions of Node have a Float16Array; the comparison wants the bits.
const bitsOf = (data) => new Uint16Array(data.buffer, data.byteOffset, data.length);
