import fc from "fast-check";
import { expect, test } from "vitest";
import { EventParser, type StreamEvent } from "../../examples/console/admin/stream.ts";

const TEXT = [
  ": connected\n\n",
  'id: e:1\ndata: {"event":"notice"}\n\n',
  "event: gap\r\ndata:first\r\ndata:  second\r\n\r\n",
  ": keep-alive\n\n",
  "id: e:2\n\n",
  "retry: 10\nunknown\ndata\n\n",
  "data: a\rid: e:3\r\r",
  "data: not complete\n",
].join("");

const EVENTS: StreamEvent[] = [
  { event: "message", data: '{"event":"notice"}' },
  { event: "gap", data: "first\n second" },
  { event: "message", data: "" },
  { event: "message", data: "a" },
];

test("a stream is read as EventSource reads it, whatever pieces it arrives in", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: TEXT.length })), (cuts) => {
      const parser = new EventParser();
      const edges = [0, ...cuts.sort((a, b) => a - b), TEXT.length];
      const events = edges.flatMap((edge, at) => parser.push(TEXT.slice(edges[at - 1] ?? 0, edge)));
      expect(events).toEqual(EVENTS);
      expect(parser.lastEventId).toBe("e:3");
    }),
  );
});

test("an event that a break cut off is forgotten, and the id before it stays", () => {
  const parser = new EventParser();
  parser.push("id: e:1\ndata: whole\n\nid: e:2\nevent: cut\ndata: of");
  parser.reset();
  expect(parser.push("data: next\n\n")).toEqual([{ event: "message", data: "next" }]);
  expect(parser.lastEventId).toBe("e:1");
});
