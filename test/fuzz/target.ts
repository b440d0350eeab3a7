import type { Stage } from "../kit/stage.ts";
import type { Consumer } from "./consumer.ts";
import type { Passes } from "./routes.ts";

/** The server under attack, and what the hostile clients have and leave. */
export interface Target {
  stage: Stage;
  passes: Passes;
  /** In every hostile input, and never in what the server may log. */
  marker: string;
  /** Where the changes of rooms go. */
  consumer: Consumer;
  /** What hostile members have connected to: in the end no connection may be left there. */
  visited: { rooms: Set<string>; users: Set<string>; owners: Set<string> };
}

/** One hostile act: a description that a person can repeat, and what the server did wrong. */
export interface Case {
  what: string;
  fault?: string | undefined;
}

/** How often each status and close code came: whether hostile input gets as far as it should. */
export const seen = new Map<number, number>();

export function count(code: number): void {
  seen.set(code, (seen.get(code) ?? 0) + 1);
}

/** The room that honest users and hostile members share. */
export const SHARED_ROOM = "bystander";
/** Generous, for machines that stall: a request without an answer by then hangs. */
export const ANSWER_MS = 20_000;
/** Characters of an input or an answer that a report shows. */
export const SHOWN = 300;

/** Counts the status of an answer. @returns what is wrong with it */
export function judgeStatus(status: number, path: string, answer = ""): string | undefined {
  count(status);
  if (status < 500) return undefined;
  // The runtime's own answer to a method that it does not know.
  if (status === 501 && answer.includes("Unrecognized request method")) return undefined;
  // The documented answer of a server without an upstream.
  if (status === 503 && path.startsWith("/api/llm/")) return undefined;
  return `answered ${status}: ${answer.slice(0, SHOWN)}`;
}
