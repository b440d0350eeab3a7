import type { Origin } from "./distribution.ts";
import type { Marks } from "./log.ts";

const RESUME = /^(?<id>[\w-]{1,64}):(?<epoch>[\w-]{1,64})(?::(?<seq>\d{1,15}))?$/;

const CURSOR = /^(?<epoch>[\w-]{1,64}):(?<seq>\d{1,15})$/;

/** A cursor `<epoch>:<seq>`; undefined for any other text. */
export function parseCursor(text: string | null): { epoch: string; seq: number } | undefined {
  const { epoch, seq } = CURSOR.exec(text ?? "")?.groups ?? {};
  return epoch === undefined ? undefined : { epoch, seq: Number(seq) };
}

/** What a client wants to resume; without `seq` its page is new. */
export interface ResumeRequest {
  id: string;
  epoch: string;
  seq: number | undefined;
}

/** The query `resume=<session>:<epoch>[:<seq>]`; undefined when there is none that can be read. */
export function parseResume(query: string | null): ResumeRequest | undefined {
  const { id, epoch, seq } = RESUME.exec(query ?? "")?.groups ?? {};
  if (id === undefined || epoch === undefined) return undefined;
  return { id, epoch, seq: seq === undefined ? undefined : Number(seq) };
}

/** What the actor keeps in the attachments of a few sockets. */
export interface Kept {
  /** Grows with every write: of several, the highest holds. */
  write: number;
  generation: string;
  marks: Marks;
  /** What other actors of the room have relayed. */
  origins?: Origin[];
  /** The sessions without a socket; null: they are in storage. */
  lost: unknown[] | null;
}

/** A value of an attachment, if it is what this release keeps there. */
export function readKept(value: unknown): Kept | undefined {
  const { write, generation, marks, lost } = (value ?? {}) as Partial<Kept>;
  const isValid =
    Number.isSafeInteger(write) &&
    typeof generation === "string" &&
    Number.isSafeInteger(marks?.seq) &&
    Array.isArray(marks?.channels) &&
    (lost === null || Array.isArray(lost));
  return isValid ? (value as Kept) : undefined;
}
