import type { MatchersObject } from "vitest";
import type { RosterEntry } from "../rooms/presence/roster.ts";
import type { Untyped } from "../src/wire/frames.ts";
import { TestClient } from "./client.ts";

/** A user of a roster: the userId, or those fields of the entry that matter, with the userId. */
export type ExpectedUser =
  | string
  | ({ userId: string; status?: string } & Partial<Omit<RosterEntry, "status">>);

declare module "vitest" {
  // The parameters are those of vitest's own declaration.
  interface Matchers<R extends void | Promise<void> = void | Promise<void>, T = unknown> {
    /** Waits until the client's roster has exactly these users, in any order. */
    toHaveRoster(users: ExpectedUser[]): Promise<void>;
    /**
     * Waits for an event that no earlier expectation took, and takes it. `data`: fields that it must
     * have, as in `toMatchObject`.
     */
    toReceive(event: string, data?: Untyped): Promise<void>;
    /** Waits until the client's socket is closed with this code. */
    toBeClosedWith(code: number): Promise<void>;
  }
}

function clientOf(value: unknown): TestClient {
  if (value instanceof TestClient) return value;
  throw new TypeError("Expected a client of testRoom()");
}

/**
 * Waits for `holds`. With `not` there is nothing to wait for but what the server has sent already.
 *
 * @returns whether it holds
 */
async function settles(client: TestClient, isNot: boolean, holds: () => boolean): Promise<boolean> {
  await client.caughtUp();
  if (!isNot) await client.until(holds, "It").catch(() => {});
  return holds();
}

/** What `testRoom` adds to `expect`. */
export const matchers: MatchersObject = {
  async toHaveRoster(received, users: ExpectedUser[]) {
    const client = clientOf(received);
    const expected = users.map((user) => (typeof user === "string" ? { userId: user } : user));
    const fits = (user: { userId: string }) =>
      this.equals(client.roster.get(user.userId), user, [this.utils.subsetEquality]);
    const pass = await settles(client, this.isNot, () => {
      return client.roster.size === expected.length && expected.every(fits);
    });
    const actual = [...client.roster.values()];
    const shown = this.utils.stringify(actual);
    return {
      pass,
      actual,
      expected,
      message: () =>
        `Expected the roster ${pass ? "not " : ""}to be ${this.utils.stringify(users)}; it is ${shown}`,
    };
  },

  async toReceive(received, event: string, data?: Untyped) {
    const client = clientOf(received);
    const fits = (one: { event: string; data: Untyped }) =>
      one.event === event &&
      (data === undefined || this.equals(one.data, data, [this.utils.subsetEquality]));
    const pass = await settles(client, this.isNot, () => client.untaken.some(fits));
    const actual = client.untaken.map((one) => ({ event: one.event, data: one.data }));
    if (pass) await client.next(fits);
    return {
      pass,
      actual,
      expected: { event, ...(data !== undefined && { data }) },
      message: () =>
        `Expected ${pass ? "no " : ""}${event} ${this.utils.stringify(data)}; came: ${this.utils.stringify(actual)}`,
    };
  },

  async toBeClosedWith(received, code: number) {
    const client = clientOf(received);
    const pass = await settles(client, this.isNot, () => client.closed?.code === code);
    const actual = client.closed?.code;
    return {
      pass,
      actual,
      expected: code,
      message: () =>
        `Expected the socket ${pass ? "not " : ""}to be closed with ${code}; ${actual === undefined ? "it is open" : `it was ${actual}`}`,
    };
  },
};
