// What a check that failed says; knows of no artifact.

/** A damaged or different artifact: `message` says what, where, expected and found, `hint` the next thing to do. */
export class Refused extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

/** This program was asked for something that it does not do. */
export class Misused extends Refused {}

export const COPY_AGAIN = "copy the artifact's folder here again, or export it again";

/** Refuses a tensor of another dtype or shape than the proof names. */
export function refuseOtherKind(what, found, expected, hint) {
  const kind = ({ dtype, shape }) => `${dtype} [${shape}]`;
  if (kind(found) !== kind(expected)) throw new Refused(`${what} is ${kind(found)}, expected ${kind(expected)}`, hint);
}
