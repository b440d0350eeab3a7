import type { ChannelDescription, Schema, SystemDescription } from "../../http/describe.ts";
import { ID_LENGTH, NAME_LENGTH } from "../../wire/frames.ts";
import { errorPayload, probeFrames, protocolFrames } from "./protocol.ts";
import { closedObject, type JsonSchema, toJsonSchema } from "./schema.ts";
import { SECURITY } from "./security.ts";

type Messages = Record<string, JsonSchema>;

interface Reference {
  $ref: string;
}

interface AsyncApiChannel {
  address: string;
  title: string;
  description: string;
  servers: Reference[];
  messages: Record<string, Reference>;
  /** Those of the address. */
  parameters?: Record<string, object>;
  bindings: { ws?: { method: "GET"; query: JsonSchema } };
}

export interface AsyncApi {
  asyncapi: "3.1.0";
  info: { title: string; version: string; description: string };
  defaultContentType: string;
  /** Empty: the Worker that gives the document adds its own addresses, `sockets` and `streams`. */
  servers: Record<string, { host: string; protocol: string }>;
  channels: Record<string, AsyncApiChannel>;
  operations: Record<string, object>;
  components: {
    messages: Record<string, { name: string; payload: JsonSchema }>;
    securitySchemes: Record<string, object>;
  };
}

/** AsyncAPI's own schemas are of draft 7. */
function toSchema(schema: Schema, io: "input" | "output"): JsonSchema {
  return toJsonSchema(schema, { io, target: "draft-7" });
}

function mapMessages(
  schemas: Record<string, Schema>,
  toMessage: (name: string, schema: Schema) => JsonSchema,
): Messages {
  return Object.fromEntries(
    Object.entries(schemas).map(([name, schema]) => [name, toMessage(name, schema)]),
  );
}

const id: JsonSchema = { type: "string", minLength: 1, maxLength: ID_LENGTH };
/** Protocol 3. */
const seq: JsonSchema = { type: "integer", minimum: 0 };
const channelName: JsonSchema = { type: "string", maxLength: NAME_LENGTH };

/** As `encodeEvent` writes it: the event's name stands in the data. */
function eventFrame(event: string, schema: Schema): JsonSchema {
  const data = toSchema(schema, "output");
  const named: JsonSchema = {
    ...data,
    properties: { type: { const: event }, ...data.properties },
    required: ["type", ...(data.required ?? [])],
  };
  const properties = { type: { const: "event" }, channel: channelName, data: named, seq };
  return closedObject(properties, ["type", "channel", "data"]);
}

/** As a client writes it: with an `id` it asks for an ack. */
function clientFrame(event: string, schema: Schema): JsonSchema {
  const data = toSchema(schema, "input");
  const required = (data.required ?? []).length > 0 ? ["type", "data"] : ["type"];
  return closedObject({ type: { const: event }, channel: channelName, id, data }, required);
}

function messagesOf({ wire, probes, ...events }: ChannelDescription): {
  in: Messages;
  out: Messages;
} {
  if (wire === "plain") {
    return {
      in: mapMessages(events.in, (_, schema) => toSchema(schema, "input")),
      out: mapMessages(events.out, (_, schema) => toSchema(schema, "output")),
    };
  }
  const more = probes ? probeFrames : { in: {}, out: {} };
  return {
    in: {
      ...mapMessages(events.in, clientFrame),
      ...mapMessages({ ...protocolFrames.in, ...more.in }, (_, schema) =>
        toSchema(schema, "input"),
      ),
    },
    out: {
      ...mapMessages({ ...events.out, error: errorPayload }, eventFrame),
      ...mapMessages({ ...protocolFrames.out, ...more.out }, (_, schema) =>
        toSchema(schema, "output"),
      ),
    },
  };
}

const TOKEN: JsonSchema = {
  type: "string",
  description: "Instead of the header Authorization, which browsers cannot set on sockets",
};
const VERSION: JsonSchema = {
  enum: ["2", "3"],
  description:
    "Asks for protocol 2: `hello`, `presence.diff`, acks, errors as events, and several frames in one message, as a JSON array; or for protocol 3, whose frames have a `seq` and whose sessions can be resumed",
};
const RESUME: JsonSchema = {
  type: "string",
  description:
    "With `v=3`: `<session>:<epoch>:<seq>`, the session to resume and the number of the last frame that came; without the number where the page is new",
};
const PROBE: JsonSchema = {
  const: "1",
  description:
    "With `v=2` or `v=3`: once no `probed` has come for `lookMs` of `hello`, this client sends a `probe` in place of its next ping, which makes the server look for dead sockets",
};

/** The parameters of a socket's URL. */
function queryOf({ query, security = [], wire, probes }: ChannelDescription): JsonSchema {
  const { properties = {}, required = [] } = query ? toSchema(query, "input") : {};
  const takesToken = security.some((name) => "in" in SECURITY[name]);
  return closedObject(
    {
      ...(takesToken && { token: TOKEN }),
      ...(wire === "room" && { v: VERSION, resume: RESUME }),
      ...(probes && { probe: PROBE }),
      ...properties,
    },
    required,
  );
}

/** AsyncAPI has a word of its own for a key in the query. */
function securitySchemes(): Record<string, object> {
  return Object.fromEntries(
    Object.entries(SECURITY).map(([name, scheme]) => [
      name,
      scheme.type === "apiKey" ? { ...scheme, type: "httpApiKey" } : scheme,
    ]),
  );
}

/** The sockets and streams as AsyncAPI 3.1, from the server's side: it receives what clients send. */
export function toAsyncApi(title: string, version: string, systems: SystemDescription[]): AsyncApi {
  const document: AsyncApi = {
    asyncapi: "3.1.0",
    info: {
      title,
      version,
      description:
        "The events of sockets and streams. HTTP routes are described in `/openapi.json`.",
    },
    defaultContentType: "application/json",
    servers: {},
    channels: {},
    operations: {},
    components: { messages: {}, securitySchemes: securitySchemes() },
  };
  const ref = (at: string): Reference => ({ $ref: `#/${at}` });
  const channels = systems.flatMap((system) => Object.entries(system.channels));
  for (const [name, channel] of channels) {
    const { address, title, description, security = [] } = channel;
    const isSocket = address.startsWith("/ws/");
    const parameters = [...address.matchAll(/\{(\w+)\}/g)].map(([, name]) => [name, {}]);
    const byDirection = messagesOf(channel);
    const messages: Record<string, Reference> = {};
    for (const direction of ["in", "out"] as const) {
      const ids = Object.entries(byDirection[direction]).map(([event, payload]) => {
        const id = `${name}.${direction}.${event}`;
        document.components.messages[id] = { name: event, payload };
        messages[id] = ref(`components/messages/${id}`);
        return id;
      });
      if (ids.length === 0) continue;
      document.operations[`${name}.${direction}`] = {
        action: direction === "in" ? "receive" : "send",
        channel: ref(`channels/${name}`),
        messages: ids.map((id) => ref(`channels/${name}/messages/${id}`)),
        ...(security.length > 0 && {
          security: security.map((scheme) => ref(`components/securitySchemes/${scheme}`)),
        }),
      };
    }
    document.channels[name] = {
      address,
      title,
      description,
      servers: [ref(`servers/${isSocket ? "sockets" : "streams"}`)],
      messages,
      ...(parameters.length > 0 && { parameters: Object.fromEntries(parameters) }),
      // A stream is an HTTP route, whose parameters stand in `/openapi.json`.
      bindings: isSocket ? { ws: { method: "GET", query: queryOf(channel) } } : {},
    };
  }
  return document;
}
