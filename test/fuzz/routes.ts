/** What the server accepts, from its own descriptions: a new route or socket is fuzzed without a change here. */
import { describeService } from "../../src/server/description/documents.ts";
import type { Random } from "../kit/random.ts";

/** Tokens that the server accepts: hostile input has to get past authentication. */
export interface Passes {
  jwt: string;
  presence: string;
  ingest: string;
}

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export const USER = "0f0e0d0c-0b0a-4908-8706-050403020100";
const DEVICE = "a0a1a2a3-a4a5-46a7-88a9-aaabacadaea";

export interface Route {
  method: string;
  path(random: Random): string;
  query(passes: Passes, random: Random): Record<string, string>;
  bearer?: keyof Passes;
  contentType: string;
  /** A text is sent as it is; anything else as JSON. */
  body?(random: Random): Json;
}

export interface SocketRoute {
  name: string;
  path(passes: Passes, random: Random): string;
  frame(random: Random): Json | string;
}

interface Schema {
  $ref?: string;
  const?: Json;
  enum?: Json[];
  anyOf?: Schema[];
  type?: string;
  pattern?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  minimum?: number;
  maximum?: number;
}

const { openapi, asyncapi } = describeService() as unknown as {
  openapi: {
    paths: Record<string, Record<string, Operation>>;
    components: { schemas: Record<string, Schema> };
  };
  asyncapi: {
    channels: Record<string, Channel>;
    components: { messages: Record<string, { payload: Schema }> };
  };
};

interface Operation {
  security?: Record<string, unknown>[];
  parameters?: { in: string; name: string; schema: Schema }[];
  requestBody?: { content: Record<string, { schema: Schema }> };
}

interface Channel {
  address: string;
  messages: Record<string, { $ref: string }>;
  bindings?: { ws?: { query?: Schema } };
}

/** Values that reach something: users, rooms and devices of the run, clocks about now and far off. */
const BY_NAME: Record<string, (random: Random) => Json> = {
  user_id: () => USER,
  device_id: (random) => `${DEVICE}${random.pick("0123456789abcdef".split(""))}`,
  userId: (random) => random.pick(["fuzz", "fuzz-2", USER]),
  id: (random) => random.pick(["fuzz-3", USER, `i${random.int(0, 9)}`]),
  // Not those whose tokens the cases use.
  revoked: (random) => random.pick(["fuzz-3", `i${random.int(0, 9)}`]),
  ids: (random) =>
    Array.from({ length: random.pick([1, 5, 5, 500, 501]) }, (_, i) =>
      random.pick(["ann", "bob", "fuzz", USER, `member-${i % 8}`, `i${i}`, "__proto__"]),
    ),
  name: () => "fuzz",
  room: (random) => random.pick(["fuzz", "bystander"]),
  sessionId: (random) => `fuzz-${random.int(0, 200)}`,
  storeId: () => "fuzz",
  transport: (random) => random.pick(["ws", "http"]),
  key: () => "covers/33333333-3333-4333-8333-333333333333.png",
  event: (random) => random.pick(["fuzz", "news", "presence.sync", "error", "__proto__"]),
  channel: (random) => random.pick(["default", "fuzz", ""]),
  after: (random) => random.pick(["ann", "0:0", `${"a".repeat(12)}:1`, `x:${"9".repeat(15)}`]),
  issuedBefore: (random) =>
    random.pick([Math.floor(Date.now() / 1_000), Date.now(), random.int(0, 1e6), 4e9, -1]),
  type: (random) => random.pick(["message", "fuzz", "__proto__"]),
  sent_at_ms: (random) =>
    random.pick([
      Date.now(),
      Date.now() + random.int(-90_000_000, 90_000_000),
      Number.MAX_SAFE_INTEGER,
      0,
    ]),
  seq: (random) => random.pick([random.int(0, 1_000_000), 0, Number.MAX_SAFE_INTEGER]),
  ackTimeoutMs: (random) => random.pick([0, 20, 100]),
  idempotencyKey: (random) => `k${random.int(0, 50)}`,
  envelopeId: () => USER,
  filters: (random) =>
    Array.from({ length: random.int(1, 5) }, () => ({
      type: random.pick(["fuzz", "message", "__proto__"]),
      [`k${random.int(0, 30)}`]: "v",
    })),
};

/** A valid value. */
function validOf(schema: Schema, random: Random, name = ""): Json {
  if (schema.$ref !== undefined) {
    const target = openapi.components.schemas[schema.$ref.split("/").at(-1) as string];
    return validOf(target ?? {}, random, name);
  }
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return random.pick(schema.enum);
  const known = BY_NAME[name];
  if (known) return known(random);
  if (schema.anyOf) return validOf(random.pick(schema.anyOf), random, name);
  switch (schema.type) {
    case "object": {
      const { properties = {}, required = [] } = schema;
      const given = Object.entries(properties).filter(
        ([key]) => required.includes(key) || random.chance(0.5),
      );
      return Object.fromEntries(given.map(([key, one]) => [key, validOf(one, random, key)]));
    }
    case "array":
      return Array.from({ length: random.int(0, 6) }, () => validOf(schema.items ?? {}, random));
    case "integer":
    case "number":
      return random.int(schema.minimum ?? 0, Math.min(schema.maximum ?? 1e6, 1e9));
    case "boolean":
      return random.chance(0.5);
    case "string":
      return schema.pattern?.includes("[0-9a-f]{8}") ? USER : `fuzz-${random.int(0, 50)}`;
    default:
      return random.pick<Json>([null, 1, "text", { n: random.int(0, 9) }, ["a", 2]]);
  }
}

const BEARERS: Record<string, keyof Passes> = {
  bearer: "jwt",
  presenceToken: "presence",
  ingest: "ingest",
  mint: "ingest",
};

function routeOf(method: string, template: string, operation: Operation): Route {
  const { security = [], parameters = [], requestBody } = operation;
  const [scheme] = security.flatMap((one) => Object.keys(one));
  const bearer = BEARERS[scheme ?? ""];
  const isStream = template.endsWith("/stream");
  const [contentType, body] = Object.entries(requestBody?.content ?? {})[0] ?? [];
  return {
    method: method.toUpperCase(),
    path: (random) =>
      template.replace(/\{(\w+)\}/g, (_, name) => {
        const isRevoked = name === "id" && template.endsWith("/revoke");
        const value = String(validOf({ type: "string" }, random, isRevoked ? "revoked" : name));
        return encodeURIComponent(value).replaceAll("%2F", "/");
      }),
    query: (passes, random) => {
      const fields = parameters
        .filter((parameter) => parameter.in === "query")
        .map(({ name, schema }) => {
          if (name === "payload") return [name, payloadOf(passes)];
          return [name, String(validOf(schema, random, name))];
        });
      // A stream's reader cannot set headers.
      if (bearer && isStream) fields.push(["token", passes[bearer]]);
      return Object.fromEntries(fields);
    },
    ...(bearer && { bearer }),
    contentType: contentType?.startsWith("multipart/") ? FORM_TYPE : "application/json",
    ...(body && {
      body: (random: Random) =>
        contentType === "multipart/form-data" ? FORM : validOf(body.schema, random),
    }),
  };
}

const FORM_TYPE = "multipart/form-data; boundary=fuzz";
const FORM = [
  "--fuzz",
  'Content-Disposition: form-data; name="file"; filename="a.png"',
  "Content-Type: image/png",
  "",
  "\x89PNG\r\n\x1a\n",
  "--fuzz--",
  "",
].join("\r\n");

/** As LiveStore's client sends its token. */
function payloadOf({ jwt }: Passes): string {
  return encodeURIComponent(JSON.stringify({ instanceId: "fuzz", authToken: jwt }));
}

/** Routes that no description has: pages, and the console's own in development. */
const UNDESCRIBED: Route[] = [
  ...["/", "/health", "/openapi.json", "/docs", "/console/config.json", "/ws/unknown"].map((path) =>
    routeOf("get", path, {}),
  ),
  routeOf("get", "/ws/presence", { security: [{ bearer: [] }] }),
  ...["session", "heartbeat"].map((name) =>
    routeOf("post", `/debug/console/${name}`, {
      requestBody: { content: { json: { schema: { properties: { name: {} }, type: "object" } } } },
    }),
  ),
];

export const ROUTES: readonly Route[] = [
  ...Object.entries(openapi.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => routeOf(method, path, operation)),
  ),
  ...UNDESCRIBED,
];

/** The protocol that a hostile client asks for, and the session that it claims as its own. */
function versionOf(random: Random): Record<string, string> {
  const v = random.pick(["1", "2", "3", "3", "3.5", "999999999999", "-1"]);
  const resume = random.pick([
    `${USER}:${"0".repeat(48)}:${random.int(0, 99)}`,
    `${USER}:${"f".repeat(48)}`,
    "::",
    `${"a".repeat(3_000)}:b:1`,
    `${USER}:x:999999999999999999999`,
    "\0:\u{fffd}:1",
  ]);
  return { v, ...(random.chance(0.4) && { resume }) };
}

function socketOf(name: string, { address, messages, bindings }: Channel): SocketRoute {
  const { properties = {} } = bindings?.ws?.query ?? {};
  const frames = Object.keys(messages)
    .filter((key) => key.startsWith(`${name}.in.`))
    .map((key) => asyncapi.components.messages[key]?.payload ?? {});
  return {
    name,
    path: (passes, random) => {
      const fields = Object.entries(properties)
        .filter(([key]) => !["v", "resume"].includes(key))
        .map(([key, schema]): [string, string] => {
          const token = name === "devices" ? passes.presence : passes.jwt;
          return [key, key === "token" ? token : String(validOf(schema, random, key))];
        });
      const query = { ...Object.fromEntries(fields), ...versionOf(random) };
      return `${address}?${new URLSearchParams(query)}`;
    },
    frame: (random) =>
      random.chance(0.2)
        ? random.pick<Json | string>([
            "ping",
            " PiNg ",
            { type: "ack", id: "x", data: 1 },
            { type: "probe" },
            { type: "\ud800", id: "x\udc00", data: {} },
          ])
        : validOf(random.pick(frames), random),
  };
}

const SYNC: SocketRoute = {
  name: "sync",
  path: (passes) =>
    `/sync?${new URLSearchParams({ storeId: "fuzz", transport: "ws", payload: payloadOf(passes) })}`,
  frame: (random) => ({
    _tag: "Request",
    id: random.pick<Json>(["1", "x", "", null, -1, 1.5, {}, "9".repeat(400)]),
    tag: random.pick(["SyncWsRpc.Pull", "SyncWsRpc.Push", "SyncWsRpc.Ping", "toString"]),
    payload: random.pick<Json>([
      {},
      { storeId: "fuzz", live: true, cursor: random.pick<Json>([-1, 1e308, "x", null]) },
      { storeId: "fuzz", batch: [{ name: "v1.X", args: "x".repeat(1_000), seqNum: 1 }] },
    ]),
    headers: [],
  }),
};

export const SOCKETS: readonly SocketRoute[] = [
  ...Object.entries(asyncapi.channels)
    .filter(([name]) => !name.endsWith("Stream"))
    .flatMap(([name, channel]) => {
      const sockets = [socketOf(name, channel)];
      // The fan-out's socket is also at `/`.
      if (name === "fanout") sockets.push(socketOf(name, { ...channel, address: "/" }));
      return sockets;
    }),
  SYNC,
];
