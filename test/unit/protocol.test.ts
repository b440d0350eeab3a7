import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  decodeFrame,
  encodeAck,
  encodeEvent,
  encodeFrame,
  encodeNack,
  exceedsBytes,
  FRAME_BYTES,
  parseFrame,
  parseFrames,
  parseJson,
  unwrapEvent,
} from "../../src/wire/frames.ts";

const name = fc.string({ minLength: 1, maxLength: 256 });
const id = fc.string({ minLength: 1, maxLength: 128 });
/** Without the one key that a frame may not have. */
const json = fc.jsonValue().filter((value) => !JSON.stringify(value).includes('"__proto__":'));

function codeOf(task: () => unknown): string | undefined {
  try {
    task();
    return undefined;
  } catch (thrown) {
    if (thrown instanceof RollcallError) return thrown.code;
    throw thrown;
  }
}

describe("a frame", () => {
  it("is the same after it was encoded and parsed", () => {
    const frame = fc.record(
      { type: name, channel: fc.string({ maxLength: 256 }), data: json, id },
      { requiredKeys: ["type"] },
    );
    fc.assert(
      fc.property(frame, (given) => {
        const text = encodeFrame(given);
        const expected: unknown = JSON.parse(text);
        expect(parseFrame(text)).toEqual(expected);
        expect(decodeFrame(text)).toEqual(expected);
        expect(parseFrames(`[${text},${text}]`)).toEqual([expected, expected]);
      }),
    );
  });

  it("that is malformed throws bad_frame when parsed, is null when decoded, and is left out of a list", () => {
    const texts = ["", "x", "null", "5", "[]", "{}", '{"type":5}', '{"type":""}', '{"type":"a"'];
    for (const text of texts) {
      expect(
        codeOf(() => parseFrame(text)),
        text,
      ).toBe("bad_frame");
      expect(decodeFrame(text)).toBeNull();
    }
    for (const raw of [undefined, null, 5, new ArrayBuffer(3)]) {
      expect(codeOf(() => parseFrame(raw))).toBe("bad_frame");
      expect(decodeFrame(raw)).toBeNull();
      expect(parseFrames(raw)).toEqual([]);
    }
    expect(parseFrames('[{"type":"a"},5,{"type":""},{"type":"b"}]')).toEqual([
      { type: "a" },
      { type: "b" },
    ]);
  });

  it("of 65 536 bytes of UTF-8 is parsed, and one byte more throws too_large", () => {
    const frame = (bytes: number, filler: string) => {
      const size = new TextEncoder().encode(filler).byteLength;
      const room = bytes - '{"type":"a","data":""}'.length;
      const text = filler.repeat(Math.floor(room / size)) + "x".repeat(room % size);
      return `{"type":"a","data":"${text}"}`;
    };
    for (const filler of ["x", "é", "€", "😀"]) {
      expect(
        codeOf(() => parseFrame(frame(FRAME_BYTES, filler))),
        filler,
      ).toBeUndefined();
      expect(
        codeOf(() => parseFrame(frame(FRAME_BYTES + 1, filler))),
        filler,
      ).toBe("too_large");
    }
    expect(codeOf(() => parseFrame(new ArrayBuffer(FRAME_BYTES + 1)))).toBe("too_large");
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.nat(40), (text, limit) => {
        expect(exceedsBytes(text, limit)).toBe(new TextEncoder().encode(text).byteLength > limit);
      }),
    );
  });

  it("with a __proto__ key at any depth and in any spelling throws bad_frame", () => {
    const letter = (char: string) =>
      fc.constantFrom(
        char,
        `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
        `\\u${char.charCodeAt(0).toString(16).padStart(4, "0").toUpperCase()}`,
      );
    const spelled = fc.tuple(...[..."__proto__"].map(letter)).map((letters) => letters.join(""));
    fc.assert(
      fc.property(spelled, fc.nat(5), (key, depth) => {
        const text = `${'{"a":['.repeat(depth)}{"${key}":{"x":1}}${"]}".repeat(depth)}`;
        expect(
          codeOf(() => parseJson(text)),
          text,
        ).toBe("bad_frame");
        expect(parseJson(`{"a":"${key}"}`)).toEqual({ a: "__proto__" });
      }),
    );
  });
});

describe("an event", () => {
  it("arrives under its own name with its own data, whatever the data is", () => {
    fc.assert(
      fc.property(name, json, fc.string({ maxLength: 20 }), (event, data, channel) => {
        let text: string;
        try {
          text = encodeEvent(event, data, channel);
        } catch (thrown) {
          expect(thrown).toMatchObject({ code: "bad_frame" });
          expect(["ping", "pong", "probed", "hello", "ack", "nack", "event"]).toContain(event);
          return;
        }
        const [frame] = parseFrames(text);
        const received = unwrapEvent(frame ?? { type: "" });
        expect(received.event).toBe(event);
        const isWrapped = frame?.type === "event" && event !== "event";
        const expected: unknown = JSON.parse(JSON.stringify(data));
        expect(received.data).toEqual(
          isWrapped || received.data?.type === event
            ? { ...(expected as object), type: event }
            : expected,
        );
      }),
      { numRuns: 500 },
    );
  });

  it("is not renamed by a type, or a toJSON, of its data", () => {
    class Sneaky {
      readonly type = "evil";
    }
    const cases: unknown[] = [
      { type: "evil" },
      new Sneaky(),
      { toJSON: () => ({ type: "evil" }) },
      Object.assign(Object.create(null), { type: "evil" }),
      [{ type: "evil" }],
    ];
    for (const data of cases) {
      const [frame] = parseFrames(encodeEvent("good", data, "default"));
      expect(unwrapEvent(frame ?? { type: "" }).event).toBe("good");
    }
  });

  it("with plain data is encoded as Verani encodes it", () => {
    expect(encodeEvent("said", { text: "hi" }, "default")).toBe(
      '{"type":"event","channel":"default","data":{"type":"said","text":"hi"}}',
    );
    expect(encodeEvent("said", undefined, "c", "7")).toBe(
      '{"type":"event","channel":"c","data":{"type":"said"},"id":"7"}',
    );
    expect(encodeEvent("said", [1], "c")).toBe('{"type":"said","channel":"c","data":[1]}');
  });

  it("throws bad_frame when its name is empty, too long or a frame type of the protocol", () => {
    expect(codeOf(() => encodeEvent("", {}, "c"))).toBe("bad_frame");
    expect(codeOf(() => encodeEvent("x".repeat(257), {}, "c"))).toBe("bad_frame");
    for (const own of ["ping", "pong", "probed", "hello", "ack", "nack"]) {
      expect(codeOf(() => encodeEvent(own, [], "c"))).toBe("bad_frame");
      expect(codeOf(() => encodeEvent(own, {}, "c"))).toBeUndefined();
    }
    expect(codeOf(() => encodeEvent("event", { type: "evil" }, "c"))).toBe("bad_frame");
  });
});

describe("an answer", () => {
  it("holds its id and what the handler returned, or the error", () => {
    expect(encodeAck("1", undefined)).toBe('{"type":"ack","id":"1","data":null}');
    const error = { code: "conflict", message: "Taken", path: "seat" } as const;
    expect(parseFrames(encodeNack("2", error))).toEqual([{ type: "nack", id: "2", error }]);
    expect(parseFrames('{"type":"nack","id":"3","error":"rubbish"}')).toEqual([
      { type: "nack", id: "3" },
    ]);
  });
});
