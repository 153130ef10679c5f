// The golden input and what the live model gave for it, against what a runtime gives for it here.
import { join } from "node:path";
import { difference } from "./compare.mjs";
import { COPY_AGAIN, Refused, refuseOtherKind } from "./refused.mjs";
import { TensorFile } from "./safetensors.mjs";

/** The tensors of golden.safetensors as `{inputs, outputs}`, in the order, dtypes and shapes that the proof names. */
export function readGolden(folder, golden) {
  const file = new TensorFile(join(folder, golden.file));
  try {
    const read = (expected) => {
      const tensor = file.read(expected.key);
      refuseOtherKind(`${golden.file}: ${expected.key}`, tensor, expected, COPY_AGAIN);
      return tensor;
    };
    return { inputs: golden.inputs.map(read), outputs: golden.outputs.map(read) };
  } finally {
    file.close();
  }
}

/** The differences of outputs found here, in order; refuses the first that is larger than the proof allows. */
export function compareOutputs(found, expected, { golden, tolerance }) {
  const allowed = tolerance?.absolute ?? 0;
  return golden.outputs.map((output, i) => {
    const name = output.name ?? output.key;
    refuseOtherKind(`output ${name}`, found[i], output, "this proof is of another model: export again");
    const measured = difference(found[i], expected[i]);
    if (measured.absolute <= allowed) return { name, ...measured };
    throw new Refused(
      `output ${name} is not that of the live model: largest difference ${measured.absolute}, allowed ${allowed}`,
      "do not serve this model here; export again, or state a larger --tolerance if that is good enough",
    );
  });
}
