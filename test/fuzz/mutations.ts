/** The ways in which hostile input departs from valid input. */
import type { Random } from "../kit/random.ts";
import type { Json } from "./routes.ts";

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
