import { evictDurableObject, runInDurableObject } from "cloudflare:test";

/** A field that a next release may write, and no release so far knows. */
export const LATER = { later: { of: ["the", "next", "release"] } };
/** What a next release may write into a row with a version. */
export const NEXT = { v: 99, ...LATER };

/** A row as a next release may write it. */
export function nextVersion(row: unknown): object {
  return { ...(row as object), ...NEXT };
}

/** What no release writes. */
export const GARBAGE: readonly unknown[] = [
  null,
  0,
  -1.5,
  "",
  "text",
  false,
  true,
  [],
  [1, "a", null],
  {},
  { v: "one" },
  { v: 0 },
  { v: 1 },
  { v: 99 },
  new Uint8Array(3),
  new Date(0),
  new Map([["a", 1]]),
];

/** A stored shape in which each field in turn is of a wrong type or missing. */
export function broken(row: object): object[] {
  return Object.entries(row).flatMap(([key, value]) => {
    const { [key]: _, ...rest } = row as Record<string, unknown>;
    const wrong = [null, { wrong: true }, typeof value === "string" ? 7 : "wrong"];
    return [rest, ...wrong.map((one) => ({ ...row, [key]: one }))];
  });
}

type Rows = Record<string, unknown>;

/** All that an actor has stored. */
export function rowsOf(stub: DurableObjectStub): Promise<Rows> {
  return runInDurableObject(stub, (_, { storage }) => Object.fromEntries(storage.kv.list()));
}

/** What an actor is to find when it wakes. */
export interface Memory {
  /** In place of everything that it has stored. */
  rows?: Rows;
  /** In place of the attachment of each socket that it has a new one for. */
  attachmentOf?: (attachment: Attachment) => unknown;
}

/** What is in every attachment. */
export interface Attachment {
  id: string;
  meta: { userId: string; clientId: string; filters?: Set<string> };
}

/** Lets an actor sleep, with its sockets, and gives it another memory meanwhile. */
export async function replaceMemory(stub: DurableObjectStub, memory: Memory): Promise<void> {
  await runInDurableObject(stub, (_, state) => {
    if (memory.rows) {
      for (const [key] of [...state.storage.kv.list()]) state.storage.kv.delete(key);
      for (const [key, row] of Object.entries(memory.rows)) state.storage.kv.put(key, row);
    }
    for (const ws of state.getWebSockets()) {
      const attachment = memory.attachmentOf?.(ws.deserializeAttachment());
      if (attachment !== undefined) ws.serializeAttachment(attachment);
    }
  });
  await evictDurableObject(stub);
}

/** The attachments of an actor's sockets. */
export function attachmentsOf(stub: DurableObjectStub): Promise<Attachment[]> {
  return runInDurableObject(stub, (_, state) =>
    state.getWebSockets().map((ws) => ws.deserializeAttachment()),
  );
}

/** An attachment as a next release may write it: its version is `rollcall`. */
export function nextAttachment(attachment: unknown): object {
  const { meta, ...rest } = attachment as { meta?: object };
  return { ...rest, ...LATER, rollcall: 99, ...(meta && { meta: { ...meta, ...LATER } }) };
}

/** Attachments that no release writes; the last ones have a meta that none has. */
export function garbageFor(attachment: unknown): unknown[] {
  const { meta } = attachment as { meta: object };
  const metas = [...GARBAGE, ...broken(meta)].map((one) => ({
    ...(attachment as object),
    meta: one,
  }));
  return [...GARBAGE, ...broken(attachment as object), ...metas];
}
