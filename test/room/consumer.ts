/** Where the tests' webhooks go. `test/kit/consumer.ts` answers, in Node. */
export const CONSUMER = "http://consumer.test";

/** What the consumer answers to the next requests: a status, or how it fails. After the last: 204. */
export type Answer = number | "hang" | "redirect" | "endless" | "break";

/** A request that came. */
export interface Delivered {
  id: string;
  /** Whether its signature holds, by the package of Standard Webhooks. */
  isSigned: boolean;
  body: string;
  path: string;
  answer: Answer;
}
