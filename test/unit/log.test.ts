import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LOG, Log, type LogOptions, type Reader, type Target } from "../../src/actor/log.ts";

const OPTIONS: LogOptions = { ...LOG, events: 20, bytes: 10_000, ageMs: 1_000 };
const CHANNELS = ["a", "b", "c"];
const READERS = ["r0", "r1", "r2"];

interface Step {
  kind: "event" | "direct" | "join" | "leave" | "wait" | "marks";
  channel: number;
  reader: number;
  isExcept: boolean;
}

const step = fc.record<Step>({
  kind: fc.constantFrom("event", "event", "event", "direct", "join", "leave", "wait", "marks"),
  channel: fc.nat({ max: CHANNELS.length }),
  reader: fc.nat({ max: READERS.length - 1 }),
  isExcept: fc.boolean(),
});

/** A session with all that it should have received, as a plain list. */
class Model implements Reader {
  readonly id: string;
  readonly openSeq = 0;
  directSeq = 0;
  restoredSeq = 0;
  channels: string[] = ["a"];
  joined: Record<string, number> = {};
  left: [string, number, number][] = [];
  readonly received: number[] = [];

  constructor(id: string) {
    this.id = id;
  }

  join(channel: string, seq: number): void {
    if (this.channels.includes(channel)) return;
    this.channels = [...this.channels, channel];
    this.joined = { ...this.joined, [channel]: seq };
  }

  leave(channel: string, seq: number): void {
    if (!this.channels.includes(channel)) return;
    this.channels = this.channels.filter((one) => one !== channel);
    this.left.push([channel, this.joined[channel] ?? this.openSeq, seq]);
  }
}

describe("the log of an actor", () => {
  it("gives a session exactly what it missed after any cursor, or says why it cannot", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.nat({ max: 100 }), (steps, cut) => {
        let log = new Log(OPTIONS);
        let now = 0;
        const models = READERS.map((id) => new Model(id));
        for (const { kind, channel, reader, isExcept } of steps) {
          const model = models[reader] as Model;
          const name = CHANNELS[channel] ?? null;
          if (kind === "join" && name) model.join(name, log.seq);
          else if (kind === "leave" && name) model.leave(name, log.seq);
          else if (kind === "wait") now += 300;
          else if (kind === "marks") {
            // The actor slept: what was in memory is gone.
            const marks = structuredClone(log.marks());
            log = new Log(OPTIONS);
            log.restore(marks, [], { seq: marks.eventSeq, cause: "restarted" });
            for (const one of models) one.restoredSeq = one.directSeq;
          } else if (kind === "direct") {
            const target: Target = { only: [model.id] };
            const { seq } = log.append(target, (n) => `${n}`, now);
            model.directSeq = seq;
            model.received.push(seq);
          } else if (kind === "event") {
            const except = isExcept ? model.id : undefined;
            const target = except === undefined ? { channel: name } : { channel: name, except };
            const { seq } = log.append(target, (n) => `${n}`, now);
            for (const one of models) {
              const isIn = name === null || one.channels.includes(name);
              if (isIn && one.id !== except) one.received.push(seq);
            }
          }
        }
        for (const model of models) {
          const missed = model.received.filter((seq) => seq > cut);
          const found = log.missedBy(model, cut, now);
          if (typeof found === "string") {
            // It may fail only if something was missed, or the cursor is not one of this log.
            expect(missed.length > 0 || cut > log.seq || model.left.length > 0).toBe(true);
          } else expect(found.map(({ seq }) => seq)).toEqual(cut > log.seq ? [] : missed);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("lets a session of a quiet channel resume however far a busy channel has trimmed the log", () => {
    const log = new Log(OPTIONS);
    const quiet = new Model("quiet");
    log.append({ channel: "a" }, String, 0);
    const cursor = log.seq;
    for (let i = 0; i < 100; i++) log.append({ channel: "busy" }, String, 0);
    expect(log.missedBy(quiet, cursor, 0)).toEqual([]);
    log.append({ channel: "a" }, String, 0);
    for (let i = 0; i < 100; i++) log.append({ channel: "busy" }, String, 0);
    expect(log.missedBy(quiet, cursor, 0)).toBe("trimmed");
  });

  it("gives a session of a quiet channel what it missed, though its cursor is older than the log", () => {
    const log = new Log(OPTIONS);
    const quiet = new Model("quiet");
    log.append({ channel: "a" }, String, 0);
    const cursor = log.seq;
    for (let i = 0; i < 100; i++) log.append({ channel: "busy" }, String, 0);
    const { seq } = log.append({ channel: "a" }, String, 0);
    const missed = log.missedBy(quiet, cursor, 0);
    expect(missed).toMatchObject([{ seq }]);
  });

  it("lets the only sender of a channel resume, since it receives none of its own events", () => {
    const log = new Log(OPTIONS);
    const sender = new Model("sender");
    for (let i = 0; i < 100; i++) log.append({ channel: "a", except: "sender" }, String, 0);
    expect(log.missedBy(sender, 0, 0)).toEqual([]);
  });

  it("keeps numbers growing, and calls a session restarted, when nothing is known of the past", () => {
    const log = new Log(OPTIONS);
    log.restartAt(1_000);
    const reader = new Model("r");
    expect(log.missedBy(reader, 7, 0)).toBe("restarted");
    expect(log.append({ channel: "a" }, String, 0).seq).toBe(1_001);
  });

  it("marks few channels in a small attachment, and never calls a missed event nothing", () => {
    const log = new Log(OPTIONS);
    const reader = new Model("r");
    log.append({ channel: "a" }, String, 0);
    for (let i = 0; i < 50; i++) log.append({ channel: `other${i}` }, String, 0);
    const marks = log.marks(10);
    expect(marks.channels).toHaveLength(10);
    const next = new Log(OPTIONS);
    next.restore(marks, [], { seq: marks.eventSeq, cause: "restarted" });
    expect(next.missedBy(reader, 0, 0)).toBe("restarted");
    expect(next.missedBy(reader, marks.rest, 0)).toEqual([]);
  });
});
