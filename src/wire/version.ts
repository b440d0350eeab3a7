/** The version of the wire, for descriptions. Its first number is the highest protocol. */
export const PROTOCOL_VERSION = "3.0.0";

/**
 * 1: Verani 0.5's frames, one per message. 2 adds lists of frames, hello, acks and diffs. 3 adds
 * numbers to frames, and sessions that a client resumes.
 */
export type Protocol = 1 | 2 | 3;

/**
 * The protocol for a client that connects with this query: the one it asks for with `v=`, if the
 * server has it, else 1, which every client understands.
 *
 * @param highest the highest protocol that the server has
 */
export function negotiateProtocol(query: URLSearchParams, highest: Protocol): Protocol {
  const asked = Number(query.get("v") ?? 1);
  return asked >= 1 ? (Math.min(Math.trunc(asked), highest) as Protocol) : 1;
}

/** Whether a stored or received value is a protocol that this release speaks. */
export function isProtocol(value: unknown): value is Protocol {
  return value === 1 || value === 2;
}
