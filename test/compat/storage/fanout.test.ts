import { env } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import { post, publish, Subscriber, sign } from "../../room/fanout-client.ts";
import { recorded } from "../rows.ts";
import {
  type Attachment,
  attachmentsOf,
  GARBAGE,
  garbageFor,
  LATER,
  nextAttachment,
  nextVersion,
  replaceMemory,
} from "./actor.ts";

const user = "user_123";
const stubOf = (name: string) => env.FANOUT.getByName(name);

/** Publishes as the recording did, with the key `key`. */
async function repeat(key: string, message: object) {
  const token = await sign({ userId: user });
  const headers = { Authorization: `Bearer ${token}`, "Idempotency-Key": key };
  return post("/publish", { userId: user, ...message }, headers);
}

const NEWS = { type: "news", payload: { text: "hello" } };

describe("answers in storage", () => {
  it("of the previous release are answered again, from one row and from two", async () => {
    await replaceMemory(stubOf(user), { rows: recorded("fanout").rows });
    const one = await repeat("one-row", NEWS);
    expect(one).toMatchObject({ status: 200, body: { clientCount: 1, results: [{ read: true }] } });
    const two = await repeat("two-rows", { type: "crowd" });
    expect(two.body.clientCount).toBe(15);
    expect(two.body.results).toHaveLength(15);
    expect((await repeat("one-row", { type: "other" })).status).toBe(422);
  });

  it("of a next release are answered again", async () => {
    const { rows } = recorded("fanout");
    const next = Object.entries(rows).map(([key, row]) =>
      key.startsWith("answer:") ? [key, nextVersion(row as object)] : [key, row],
    );
    await replaceMemory(stubOf(user), { rows: Object.fromEntries(next) });
    expect((await repeat("one-row", NEWS)).body.results).toEqual([{ read: true }]);
  });

  it("that are garbage count as none, and what is published then is kept", async () => {
    const { rows } = recorded("fanout");
    for (const garbage of GARBAGE) {
      await replaceMemory(stubOf(user), { rows: { ...rows, "answer:0:one-row": garbage } });
      const answer = await repeat("one-row", NEWS);
      expect(answer).toMatchObject({ status: 200, body: { clientCount: 0, results: [] } });
      expect((await repeat("one-row", { type: "other" })).status).toBe(422);
    }
  });
});

describe("sockets of a fan-out room", () => {
  /** Sockets of the user of the recording, which wake with `attachments` and the recorded rows. */
  async function enter(attachments: readonly unknown[], rows: Record<string, unknown>) {
    const sockets: Subscriber[] = [];
    const ids: string[] = [];
    for (const _ of attachments) {
      sockets.push(await Subscriber.connect(user, "/ws/fanout"));
      for (const { id } of await attachmentsOf(stubOf(user))) if (!ids.includes(id)) ids.push(id);
    }
    const attachmentOf = ({ id }: Attachment) => attachments[ids.indexOf(id)];
    await replaceMemory(stubOf(user), { attachmentOf, rows });
    return sockets;
  }

  it("of the previous release, and of a next one, receive what their filters ask for", async () => {
    const { sockets, rows } = recorded("fanout");
    const old = [sockets.some, sockets.many];
    const all = await enter([...old, nextAttachment(sockets.some)], rows);
    await publish(user, { ...NEWS, ackTimeoutMs: 0 });
    await publish(user, { type: "chat", payload: { n: "2" }, ackTimeoutMs: 0 });
    for (const one of all) await one.settle();
    const typesOf = ({ received }: Subscriber) => received.map(({ type }) => type);
    expect(all.map(typesOf)).toEqual([["news"], ["chat"], ["news"]]);
    await all[2]?.subscribe({ type: "more" });
    expect(await attachmentsOf(stubOf(user))).toContainEqual(expect.objectContaining(LATER));
    for (const one of all) one.socket.close();
  });

  it("with garbage attachments are closed with 1011 or kept, and all others stay", async () => {
    const { sockets, rows } = recorded("fanout");
    const { meta, ...rest } = sockets.some as Attachment;
    const filters = [null, 7, "chat", ["chat"], {}, new Set([1]), new Set(["chat", null])];
    const metas = filters.map((one) => ({ ...rest, meta: { ...meta, filters: one } }));
    const garbage = [...garbageFor(sockets.some), ...metas];
    const [good, ...bad] = await enter([sockets.some, ...garbage], rows);
    await publish(user, { ...NEWS, ackTimeoutMs: 0 });
    await good?.settle();
    expect(good?.received).toMatchObject([NEWS]);
    const damaged = bad.slice(-filters.length);
    await vi.waitFor(() => expect(damaged.every(({ socket }) => socket.closed)).toBe(true));
    const closed = bad.filter(({ socket }) => socket.closed);
    expect(closed.length).toBeGreaterThan(GARBAGE.length);
    for (const { socket } of closed) expect(socket.closed?.code).toBe(1011);
    good?.socket.close();
  });
});
