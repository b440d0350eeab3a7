/** What the server takes, as a grammar, and the ways in which hostile input departs from it. */
import type { Random } from "../kit/random.ts";

/** Tokens that the server accepts: hostile input has to get past the door. */
export interface Passes {
  jwt: string;
  presence: string;
  ingest: string;
}

export const USER = "0f0e0d0c-0b0a-4908-8706-050403020100";
const DEVICE = "a0a1a2a3-a4a5-46a7-88a9-aaabacadaeaf";

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Route {
  method: string;
  path: string;
  /** Fields of the query, valid ones. */
  query?: (passes: Passes, random: Random) => Record<string, string>;
  bearer?: keyof Passes;
  body?: (random: Random) => Json;
  /** Answers with a stream that does not end by itself. */
  streams?: boolean;
}

const moods = ["gratitude", "presence", "release", "connection"];

const beat = (random: Random): Json => ({
  schema_version: 1,
  user_id: USER,
  device_id: random.chance(0.5) ? DEVICE : `${DEVICE.slice(0, -2)}${random.int(10, 99)}`,
  status: random.pick(["online", "offline"]),
  source: "fuzz",
  // Clocks and sequences of a member who wants to lock others' devices.
  sent_at_ms: random.pick([
    random.int(1, 2 ** 40),
    Date.now() + random.int(-90_000_000, 90_000_000),
    Number.MAX_SAFE_INTEGER,
    0,
  ]),
  seq: random.pick([random.int(0, 1_000_000), 0, Number.MAX_SAFE_INTEGER]),
  ttl_ms: random.int(1, 86_400_000),
});

const message = (random: Random): Json => ({
  userId: random.pick(["fuzz", "fuzz-2", USER]),
  type: random.pick(["message", "fuzz"]),
  payload: { n: random.int(0, 9), text: "x".repeat(random.int(0, 40)) },
  ackTimeoutMs: random.pick([0, 20, 100]),
});

export const ROUTES: readonly Route[] = [
  { method: "GET", path: "/api/v1/presence", bearer: "jwt", query: () => ({ room: "fuzz" }) },
  {
    method: "POST",
    path: "/api/v1/daemon/presence/heartbeat",
    bearer: "ingest",
    body: beat,
  },
  {
    method: "POST",
    path: "/api/v1/daemon/presence/heartbeats",
    bearer: "ingest",
    body: (random) => ({
      heartbeats: Array.from({ length: random.int(0, 8) }, () => beat(random)),
    }),
  },
  {
    method: "POST",
    path: "/api/v1/presence/tokens",
    bearer: "ingest",
    body: (random) => ({
      user_id: USER,
      device_id: DEVICE,
      scope: ["presence:read"],
      ttl_ms: random.int(1, 86_400_000),
    }),
  },
  {
    method: "GET",
    path: "/api/v1/mobile/presence",
    bearer: "presence",
    query: () => ({ user_id: USER }),
  },
  {
    method: "GET",
    path: "/api/v1/mobile/presence/stream",
    query: ({ presence }) => ({ user_id: USER, token: presence }),
    streams: true,
  },
  { method: "POST", path: "/publish", bearer: "jwt", body: message },
  {
    method: "POST",
    path: "/publish/batch",
    bearer: "jwt",
    body: (random) => ({
      messages: Array.from({ length: random.int(0, 6) }, () => ({
        ...(message(random) as object),
        idempotencyKey: `k${random.int(0, 50)}`,
      })),
    }),
  },
  {
    method: "GET",
    path: "/fanout/stream",
    query: ({ jwt }) => ({ type: "fuzz", token: jwt }),
    streams: true,
  },
  {
    method: "POST",
    path: "/api/heartbeat",
    body: (random) => ({ sessionId: `fuzz-${random.int(0, 200)}`, mood: random.pick(moods) }),
  },
  { method: "GET", path: "/api/presence" },
  {
    method: "POST",
    path: "/api/leave",
    body: (random) => ({ sessionId: `fuzz-${random.int(0, 200)}` }),
  },
  { method: "GET", path: "/api/presence/stream", streams: true },
  {
    method: "DELETE",
    path: "/api/v1/users/fuzz-3",
    bearer: "ingest",
  },
  { method: "GET", path: "/debug/presence", query: () => ({ user_id: USER }) },
  { method: "GET", path: "/debug/actors/presence/fuzz" },
  { method: "GET", path: "/debug/actors/fanout/fuzz" },
  { method: "GET", path: "/debug/actors/devices/fuzz" },
  { method: "POST", path: "/debug/console/session", body: () => ({ name: "fuzz" }) },
  { method: "POST", path: "/debug/console/heartbeat", body: beat },
  { method: "GET", path: "/console/config.json" },
  { method: "GET", path: "/" },
  { method: "GET", path: "/ws/presence", bearer: "jwt" },
  { method: "GET", path: "/ws/fanout", bearer: "jwt" },
  { method: "GET", path: "/ws/devices", bearer: "presence", query: () => ({ user_id: USER }) },
  { method: "GET", path: "/ws/moods", query: () => ({ sessionId: "fuzz" }) },
  { method: "GET", path: "/sync", query: ({ jwt }) => ({ storeId: "fuzz", token: jwt }) },
  { method: "POST", path: "/api/upload-image", bearer: "jwt", body: () => "no form" },
  { method: "GET", path: "/api/images/fuzz.png" },
  {
    method: "POST",
    path: "/api/llm/chat/completions",
    bearer: "jwt",
    body: () => ({ model: "fuzz", messages: [{ role: "user", content: "hi" }] }),
  },
];

export interface SocketRoute {
  name: string;
  path: (passes: Passes, random: Random) => string;
  frame: (random: Random) => Json | string;
}

const filter = (random: Random): Json => ({
  type: random.pick(["fuzz", "message", "__proto__"]),
  [`k${random.int(0, 30)}`]: "v",
});

/** The protocol that a hostile member asks for, and the session that it claims as its own. */
function versionOf(random: Random): string {
  const version = random.pick(["", "&v=2", "&v=3", "&v=3", "&v=3.5", "&v=999999999999", "&v=-1"]);
  const resume = random.pick([
    `${USER}:${"0".repeat(48)}:${random.int(0, 99)}`,
    `${USER}:${"f".repeat(48)}`,
    "::",
    `${"a".repeat(3_000)}:b:1`,
    `${USER}:x:999999999999999999999`,
    "%00:%ff:1",
  ]);
  return version + (random.chance(0.4) ? `&resume=${resume}` : "");
}

export const SOCKETS: readonly SocketRoute[] = [
  {
    name: "presence",
    path: ({ jwt }, random) =>
      `/ws/presence?room=${random.pick(["fuzz", "witness"])}&token=${jwt}${versionOf(random)}`,
    frame: (random) =>
      random.pick<Json>([
        { type: "presence.status", id: `i${random.int(0, 3)}`, data: { status: "busy" } },
        { type: "\ud800", id: "x\udc00", data: {} },
        { type: "probe" },
        { type: "presence.status", data: { status: random.pick(["online", "away", "busy"]) } },
        { type: "presence.list", data: {} },
        { type: "presence.list", id: "1" },
        { type: "ack", id: "x", data: 1 },
        { type: "ping" },
      ]),
  },
  {
    name: "fanout",
    path: ({ jwt }) => `/?token=${jwt}`,
    frame: (random) =>
      random.pick<Json | string>([
        "ping",
        " PiNg ",
        { type: "subscribe", filters: Array.from({ length: 5 }, () => filter(random)) },
        { type: "unsubscribe", filters: [filter(random)] },
        { type: "ack", envelopeId: USER, result: { n: 1 } },
      ]),
  },
  {
    name: "devices",
    path: ({ presence }, random) =>
      `/ws/devices?user_id=${USER}&token=${presence}${random.chance(0.5) ? "&v=2" : ""}`,
    frame: () => ({ type: "device.sync", data: {} }),
  },
  {
    name: "moods",
    path: (_, random) => `/ws/moods?sessionId=fuzz-${random.int(0, 40)}&mood=${random.pick(moods)}`,
    frame: (random) => ({ type: "mood.set", data: { mood: random.pick(moods) } }),
  },
  {
    name: "sync",
    path: ({ jwt }) =>
      `/sync?storeId=fuzz&transport=ws&payload=${encodeURIComponent(JSON.stringify({ authToken: jwt }))}`,
    frame: () => ({ _tag: "Request", id: "1", tag: "SyncWsRpc.Pull", payload: {}, headers: [] }),
  },
];

// ── Departures ──────────────────────────────────────────────────────────────────────────────────

/** Numbers on which parsers and clocks break. */
const NUMBERS = [
  "-1",
  "-0",
  "0.5",
  "1e308",
  "1e400",
  "-1e400",
  "9007199254740993",
  "1e21",
  "00",
  "0x10",
  "NaN",
  "Infinity",
  `1${"0".repeat(4000)}`,
  "1e-400",
];
const STRINGS = (marker: string) => [
  "",
  " ",
  "\u0000",
  "\ud800",
  "\udc00x",
  "__proto__",
  "constructor",
  "toString",
  "../..",
  "%00",
  "\r\nX-Fuzz: 1",
  "\u202e\ufeff",
  "🙈".repeat(200),
  "a".repeat(300),
  "a".repeat(9_000),
  "' OR 1=1 --",
  "{{7*7}}",
  "<script>",
  marker,
  `${marker}\n{"event":"forged"}`,
];

/** A JSON text near `value`: some of its parts are replaced by what a hostile client would write. */
export function mutateJson(value: Json, random: Random, marker: string): string {
  const odd = (): string =>
    random.pick([
      () => random.pick(NUMBERS),
      () => JSON.stringify(random.pick(STRINGS(marker))),
      () => random.pick(["null", "true", "[]", "{}", "[[]]", '{"__proto__":{"x":1}}']),
      () => `${"[".repeat(random.pick([5, 200, 20_000]))}`,
      () => {
        const depth = random.pick([50, 2_000, 30_000]);
        return "[".repeat(depth) + "]".repeat(depth);
      },
      () => {
        const depth = random.pick([50, 1_500, 8_000]);
        return `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`;
      },
    ])();
  const write = (part: Json): string => {
    if (random.chance(0.12)) return odd();
    if (Array.isArray(part)) return `[${part.map(write).join(",")}]`;
    if (typeof part !== "object" || part === null) return JSON.stringify(part);
    const fields: string[] = [];
    for (const [key, field] of Object.entries(part)) {
      if (random.chance(0.06)) continue;
      const text = write(field);
      fields.push(`${JSON.stringify(key)}:${text}`);
      if (random.chance(0.06)) fields.push(`${JSON.stringify(key)}:${odd()}`);
    }
    if (random.chance(0.08)) fields.push(`"__proto__":${odd()}`);
    if (random.chance(0.08)) fields.push(`${JSON.stringify(random.pick(STRINGS(marker)))}:1`);
    return `{${fields.join(",")}}`;
  };
  return write(value);
}

/** Bytes near `text`: cut, flipped, no UTF-8, repeated, or as they were. */
export function mutateBytes(text: string, random: Random): Buffer {
  const bytes = Buffer.from(text);
  switch (random.int(0, 9)) {
    case 0:
      return bytes.subarray(0, random.int(0, bytes.length));
    case 1: {
      for (let i = 0; i < 4 && bytes.length > 0; i++) {
        bytes[random.int(0, bytes.length - 1)] = random.int(0, 255);
      }
      return bytes;
    }
    case 2:
      return Buffer.concat([bytes, Buffer.from([0xc3, 0x28, 0xff, 0xfe, 0xed, 0xa0, 0x80])]);
    case 3:
      return Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), bytes]);
    default:
      return bytes;
  }
}

/** A path near `path`. */
export function mutatePath(path: string, random: Random, marker: string): string {
  const odd = random.pick([
    () => `${path}/`,
    () => `/${path}`,
    () => path.toUpperCase(),
    () => path.replaceAll("/", "%2f"),
    () => `${path}/../..${path}`,
    () => `${path}%00`,
    () => `${path}%zz%`,
    () => `${path};${marker}`,
    () => `${path}/${encodeURIComponent(random.pick(STRINGS(marker)).toWellFormed())}`,
    () => `${path}${"/a".repeat(random.pick([10, 1_000]))}`,
    () => path.slice(0, random.int(1, path.length)),
  ])();
  return odd.replaceAll(/[^\x21-\x7e]/g, "").replaceAll("#", "%23") || "/";
}

/** A query near `fields`, ready to be sent. */
export function mutateQuery(
  fields: Record<string, string>,
  random: Random,
  marker: string,
): string {
  const pairs: string[] = [];
  for (const [key, value] of Object.entries(fields)) {
    if (random.chance(0.1)) continue;
    const text = random.chance(0.2) ? random.pick(STRINGS(marker)).toWellFormed() : value;
    pairs.push(`${encodeURIComponent(key)}=${encodeURIComponent(text)}`);
    if (random.chance(0.1)) pairs.push(`${encodeURIComponent(key)}=${marker}`);
  }
  if (random.chance(0.1)) pairs.push("%ff=%c3%28&&=&a&%");
  if (random.chance(0.1)) pairs.push(`${marker}=${"q".repeat(random.int(0, 3_000))}`);
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`;
}

export const METHODS = [
  ...["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "HEAD", "OPTIONS", "OPTIONS", "PURGE"],
  ...["PROPFIND", "TRACE"],
];

export function mutateHeaders(
  headers: Record<string, string>,
  random: Random,
  marker: string,
): Record<string, string> {
  const odd: [string, string][] = [
    ["Authorization", `Bearer ${marker}`],
    ["Authorization", "Bearer"],
    ["Authorization", `Bearer ${"a.".repeat(3_000)}`],
    ["Authorization", "Basic dXNlcjpwYXNz"],
    ["Authorization", "Bearer eyJhbGciOiJub25lIn0.e30."],
    ["Content-Type", "text/plain"],
    ["Content-Type", `multipart/form-data; boundary=${marker}`],
    ["Content-Type", "application/json; charset=utf-16"],
    ["Content-Type", "application/x-www-form-urlencoded"],
    ["Content-Encoding", "gzip"],
    ["Idempotency-Key", marker],
    ["Idempotency-Key", "k".repeat(400)],
    ["Origin", `https://${marker}.example`],
    ["Upgrade", "websocket"],
    ["Upgrade", "h2c"],
    ["Accept", "text/html"],
    ["Last-Event-ID", marker],
    ["Range", "bytes=0-0,5-1,-9999999999999"],
    ["If-None-Match", '"x"'],
    ["User-Agent", `${marker} Mobile Tablet`],
    ["Cookie", `a=${marker}`],
    ["X-Forwarded-For", marker],
    ["CF-Connecting-IP", marker],
    ["Accept-Encoding", "br;q=9, *;q=-1"],
  ];
  const result = { ...headers };
  for (let i = random.int(0, 2); i > 0; i--) {
    const [name, value] = random.pick(odd);
    result[name] = value;
  }
  if (random.chance(0.05)) delete result.Authorization;
  return result;
}
