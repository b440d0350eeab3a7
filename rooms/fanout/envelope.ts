import type { Untyped } from "../../src/wire/frames.ts";

/** A published message, as a subscriber receives it. */
export interface Envelope<P = Untyped> {
  envelopeId: string;
  type: string;
  /** The user it was published to. */
  userId: string;
  /** The server's time, ISO 8601. */
  timestamp: string;
  /** Where a reader of the user's envelopes is, once it has this one. */
  cursor?: string;
  /** The user who published it, as the server verified. Absent where an app's own login names nobody. */
  publisher?: string;
  /** Absent when the publisher gave none. */
  payload?: P;
}
