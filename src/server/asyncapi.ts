import * as z from "zod/mini";
import { envelope, fanoutMessages } from "../../rooms/fanout/contract.ts";
import { describeService } from "./description/documents.ts";

export interface JsonSchema {
  [keyword: string]: unknown;
  properties?: Record<string, JsonSchema>;
  required?: string[];
}
type Schema = z.core.$ZodType;
type Messages = Record<string, JsonSchema>;

/** One address at which events come and go. */
interface Channel {
  address: string;
  title: string;
  description: string;
  /** Parameters of a socket's URL; those of a stream stand in `/openapi.json`. */
  query?: JsonSchema;
  /** Names of security schemes, any of which will do. */
  security: string[];
  /** Messages from clients, and to them, by name. */
  in: Messages;
  out: Messages;
}

interface Reference {
  $ref: string;
}

interface AsyncApiChannel {
  address: string;
  title: string;
  description: string;
  servers: Reference[];
  messages: Record<string, Reference>;
  bindings: object;
}

export interface AsyncApi {
  asyncapi: "3.1.0";
  info: { title: string; version: string; description: string };
  defaultContentType: string;
  servers: Record<string, object>;
  channels: Record<string, AsyncApiChannel>;
  operations: Record<string, object>;
  components: {
    messages: Record<string, { name: string; payload: JsonSchema }>;
    securitySchemes: Record<string, object>;
  };
}

function toSchema(schema: Schema, io: "input" | "output"): JsonSchema {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, target: "draft-7" });
  return rest as JsonSchema;
}

function object(properties: Record<string, JsonSchema>, required: string[]): JsonSchema {
  return { type: "object", properties, required, additionalProperties: false };
}

function mapMessages(
  schemas: Record<string, Schema>,
  toMessage: (name: string, schema: Schema) => JsonSchema,
): Messages {
  return Object.fromEntries(
    Object.entries(schemas).map(([name, schema]) => [name, toMessage(name, schema)]),
  );
}

/** One event of a stream: its `data:`, as JSON. */
function streamMessages(name: string, schema: Schema): { in: Messages; out: Messages } {
  return { in: {}, out: { [name]: toSchema(schema, "output") } };
}

const text = (description: string): JsonSchema => ({ type: "string", description });
const token = text("Instead of the header Authorization, which browsers cannot set on sockets");
const JWT = ["bearer", "bearerQuery"];

const CHANNELS: Record<string, Channel> = {
  fanout: {
    address: "/ws/fanout",
    title: "What is published to a user",
    description:
      "By filters, which a client subscribes to: a type, and fields of the payload by their values. `/` takes the upgrade as well. A wire of its own: a bare `ping` is answered by a bare `pong`.",
    query: object({ token }, []),
    security: JWT,
    in: {
      ...mapMessages(fanoutMessages.in, (_, schema) => toSchema(schema, "input")),
      ping: { const: "ping" },
    },
    out: {
      ...mapMessages(fanoutMessages.out, (_, schema) => toSchema(schema, "output")),
      pong: { const: "pong" },
    },
  },
  fanoutStream: {
    address: "/fanout/stream",
    title: "What is published to a user, as server-sent events",
    description: "Every parameter but `token` is a field of the filter. `id:` is the envelope's.",
    security: JWT,
    ...streamMessages("envelope", envelope),
  },
};

/** Security schemes of both documents: OpenAPI's words, of which AsyncAPI has its own for a query. */
export const SECURITY = {
  bearer: {
    type: "http",
    scheme: "bearer",
    bearerFormat: "JWT",
    description:
      "A user's JWT, HS256 with JWT_SECRET; in development also `user:<name>` for presence",
  },
  bearerQuery: { type: "apiKey", in: "query", name: "token", description: "The same, in the URL" },
  presenceToken: {
    type: "http",
    scheme: "bearer",
    description: "A presence token with the scope presence:read, of POST /api/v1/presence/tokens",
  },
  presenceTokenQuery: {
    type: "apiKey",
    in: "query",
    name: "token",
    description: "The same, in the URL",
  },
  ingest: {
    type: "http",
    scheme: "bearer",
    description: "PRESENCE_DO_INGEST_TOKEN, which backends and daemons show",
  },
} as const;

function securitySchemes(): Record<string, object> {
  return Object.fromEntries(
    Object.entries(SECURITY).map(([name, scheme]) => [
      name,
      scheme.type === "apiKey" ? { ...scheme, type: "httpApiKey" } : scheme,
    ]),
  );
}

/** The sockets and streams as AsyncAPI 3, from the server's side: it receives what clients send. */
export function describeEvents(info: AsyncApi["info"], url: URL): AsyncApi {
  const isSecure = url.protocol === "https:";
  const document: AsyncApi = {
    asyncapi: "3.1.0",
    info,
    defaultContentType: "application/json",
    servers: {
      sockets: { host: url.host, protocol: isSecure ? "wss" : "ws" },
      streams: { host: url.host, protocol: isSecure ? "https" : "http" },
    },
    channels: {},
    operations: {},
    components: { messages: {}, securitySchemes: securitySchemes() },
  };
  for (const [name, channel] of Object.entries(CHANNELS)) {
    const { address, title, description, query, security } = channel;
    const isSocket = address.startsWith("/ws/");
    const ref = (at: string): Reference => ({ $ref: `#/${at}` });
    const messages: Record<string, Reference> = {};
    for (const direction of ["in", "out"] as const) {
      const ids = Object.entries(channel[direction]).map(([event, payload]) => {
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
      // A stream is an HTTP route, whose parameters `/openapi.json` names.
      bindings: isSocket ? { ws: { method: "GET", query } } : {},
    };
  }
  // Systems whose contract describes their channels.
  const { channels, operations, components } = describeService().asyncapi;
  Object.assign(document.channels, channels);
  Object.assign(document.operations, operations);
  Object.assign(document.components.messages, components.messages);
  return document;
}
