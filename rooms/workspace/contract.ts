import * as z from "zod/mini";
import { defineRecord } from "../../src/actor/record.ts";
import {
  answered,
  describeErrorBody,
  limited,
  refused,
  type SystemDescription,
} from "../../src/http/describe.ts";

/** Why a client may not sync: the code that it receives, its HTTP status and its close code. */
export const REFUSALS = {
  TOKEN_MISSING: { status: 401, close: 4401 },
  TOKEN_INVALID: { status: 401, close: 4401 },
  GRACE_PERIOD_EXPIRED: { status: 401, close: 4401 },
  TOKEN_VERSION_STALE: { status: 401, close: 4401 },
  FORBIDDEN: { status: 403, close: 4403 },
  /** The workspace has stored as much as one may. */
  WORKSPACE_FULL: { status: 403, close: 4403 },
  AUTH_SERVICE_ERROR: { status: 503, close: 1013 },
} as const satisfies Record<string, { status: number; close: number }>;

export type RefusalCode = keyof typeof REFUSALS;

const memberFields = z.object({
  storeId: z.string(),
  userId: z.string(),
  /** From the token's claims. Absent for a trusted server and for the development user. */
  claimsVersion: z.exactOptional(z.number()),
  /** A viewer may pull, and not push. */
  readsOnly: z.exactOptional(z.boolean()),
  /** When the token was issued, in seconds since the epoch, as `iat`. */
  issuedAtS: z.exactOptional(z.number()),
  /** When the token and its grace period are over, in ms since the epoch. */
  admittedUntilMs: z.exactOptional(z.number()),
});

/** A client that may sync: what is needed to check it again, without a secret. */
export type Member = z.infer<typeof memberFields>;

/** A member as it is stored with a socket. */
export const memberRecord = defineRecord<Member>({ version: 1, schema: memberFields });

/** A tool as OpenAI's chat completions take it. */
export const toolDefinition = z.looseObject({
  type: z.literal("function"),
  function: z.looseObject({
    name: z.string().check(z.regex(/^[A-Za-z0-9_-]{1,64}$/)),
    description: z.optional(z.string()),
    parameters: z.optional(z.record(z.string(), z.unknown())),
  }),
});
export type ToolDefinition = z.infer<typeof toolDefinition>;

const whole = z.int("A whole number of 1 or more").check(z.gte(1, "1 or more"));
const MODEL = "A model's name has 1 to 256 characters";
const MESSAGES = "There is at least one message, and each is an object";
const TOOLS = "A tool is the definition of a function or the name of one";

/** The fields of a completion that are read here. All others are forwarded unchanged. */
export const completionRequest = z.looseObject(
  {
    model: z.string(MODEL).check(z.minLength(1, MODEL), z.maxLength(256, MODEL)),
    messages: z
      .array(z.record(z.string(), z.unknown(), MESSAGES), MESSAGES)
      .check(z.minLength(1, MESSAGES)),
    stream: z.optional(z.boolean("true or false")),
    // Each costs money: how many there may be, the deployment says.
    n: z.optional(z.nullable(whole)),
    max_tokens: z.optional(z.nullable(whole)),
    max_completion_tokens: z.optional(z.nullable(whole)),
    tools: z.optional(
      // No other types: what an upstream runs by itself was not offered.
      z.array(z.union([z.string(), toolDefinition], TOOLS), TOOLS),
    ),
  },
  "A completion is an object",
);

export type CompletionRequest = z.infer<typeof completionRequest>;

/** The routes of both Workers: the main one forwards them, the second one answers them. */
export function describeWorkspace(): SystemDescription {
  const codes = Object.keys(REFUSALS) as [RefusalCode, ...RefusalCode[]];
  const syncFailure = z.object({ error: z.enum(codes), details: z.string() });
  const imageFailure = z.object({
    error: z.string(),
    code: z.enum(["AUTH_REQUIRED", "FORBIDDEN", "LIMIT_REACHED", "NO_FILE", "INVALID_FILE"]),
  });
  const llmFailure = z.object({
    error: z.object({ message: z.string(), type: z.string(), code: z.string() }),
  });
  const binary = z.string().check(z.meta({ format: "binary" }));

  const query = z.object({
    storeId: z.string().check(z.minLength(1), z.maxLength(128), z.describe("The workspace")),
    transport: z.enum(["ws", "http"]),
    payload: z.optional(
      z.string().check(z.describe("JSON of `{instanceId, authToken}`, URL-encoded twice")),
    ),
  });
  const syncRefusals = {
    400: refused("storeId or transport is missing or malformed, or the body is no message"),
    401: answered(
      "TOKEN_MISSING, TOKEN_INVALID, GRACE_PERIOD_EXPIRED, TOKEN_VERSION_STALE",
      syncFailure,
    ),
    403: answered("FORBIDDEN: not a member, or instanceId is not storeId", syncFailure),
    429: limited(),
    503: answered(
      "AUTH_SERVICE_ERROR, also when JWT_SECRET is not configured; or no second Worker",
      z.union([syncFailure, describeErrorBody()]),
    ),
  };
  const rpc = z.looseObject({
    _tag: z.string(),
    id: z.optional(z.string()),
    tag: z.optional(z.string()),
  });

  return {
    tag: { name: "Workspace", description: "LiveStore sync, images, completions." },
    components: { SyncError: syncFailure, ImageError: imageFailure, LlmError: llmFailure },
    channels: {},
    routes: [
      {
        method: "get",
        path: "/sync",
        summary: "LiveStore's sync over a WebSocket",
        description: "`transport=ws` and an upgrade, as LiveStore's own clients send it.",
        query,
        responses: {
          101: { description: "The socket" },
          ...syncRefusals,
          426: refused("The request asks for no WebSocket"),
        },
      },
      {
        method: "post",
        path: "/sync",
        summary: "LiveStore's sync over HTTP",
        description:
          "`transport=http`; the body is that of LiveStore's own clients, messages of Effect's RPC.",
        query,
        body: { content: { "application/json": z.union([rpc, z.array(rpc)]) } },
        responses: {
          200: answered("LiveStore's answer", z.array(z.looseObject({ _tag: z.string() }))),
          ...syncRefusals,
          413: refused("The body has more than 1 MiB"),
        },
      },
      {
        method: "post",
        path: "/api/upload-image",
        summary: "Stores a cover of at most 5 MiB: JPEG, PNG, WebP or GIF, by its first bytes",
        security: ["bearer"],
        body: { content: { "multipart/form-data": z.object({ file: binary }) } },
        responses: {
          200: answered("Where it is", z.object({ url: z.string(), key: z.string() })),
          400: answered("NO_FILE or INVALID_FILE", imageFailure),
          401: answered("AUTH_REQUIRED", imageFailure),
          403: answered(
            "FORBIDDEN without the grant; LIMIT_REACHED where the user has as many as one may",
            imageFailure,
          ),
          429: limited(),
          503: refused("JWT_SECRET is not configured"),
        },
      },
      {
        method: "delete",
        path: "/api/images/{key}",
        summary: "Deletes an image of one's own",
        security: ["bearer"],
        params: z.object({
          key: z.string().check(z.describe("`covers/<uuid>.<extension>`")),
        }),
        responses: {
          204: { description: "It is gone; copies in caches stay" },
          401: answered("AUTH_REQUIRED", imageFailure),
          403: answered("FORBIDDEN without the grant", imageFailure),
          404: refused("No such image of this user"),
          503: refused("JWT_SECRET is not configured"),
        },
      },
      {
        method: "delete",
        path: "/api/v1/workspaces/{id}",
        summary: "Deletes all that a workspace has stored, and closes its connections",
        security: ["server"],
        params: z.object({ id: z.string().check(z.minLength(1), z.maxLength(128)) }),
        responses: {
          204: { description: "Nothing is stored any more" },
          400: refused("The id is too long"),
          401: refused("The bearer token is missing or wrong"),
          503: refused("SERVER_BYPASS_TOKEN is not configured"),
        },
      },
      {
        method: "get",
        path: "/api/images/{key}",
        summary: "An uploaded image, for everybody",
        params: z.object({
          key: z.string().check(z.describe("`covers/<uuid>.<extension>`")),
        }),
        headers: z.object({ "If-None-Match": z.optional(z.string()) }),
        responses: {
          200: { description: "The image", content: { "image/*": binary } },
          304: { description: "The client has it" },
          404: refused("No such image"),
        },
      },
      {
        method: "get",
        path: "/api/llm/tools",
        summary: "The tools that a completion may name",
        responses: {
          200: answered(
            "Definitions as OpenAI's chat completions take them",
            z.object({ tools: z.array(toolDefinition) }),
          ),
          503: answered("LLM_TOOLS is malformed", llmFailure),
        },
      },
      {
        method: "post",
        path: "/api/llm/chat/completions",
        summary: "OpenAI's chat completions by Braintrust's proxy",
        description: "At most 4 MiB. In `tools`, a string names one of `/api/llm/tools`.",
        security: ["bearer"],
        body: { content: { "application/json": completionRequest } },
        responses: {
          200: {
            description:
              "The upstream's answer; with `stream: true` its events, `[DONE]` at the end",
            content: {
              "application/json": z.looseObject({}),
              "text/event-stream": z.string(),
            },
          },
          400: answered("invalid_request, unknown_tool", llmFailure),
          401: answered("unauthorized", llmFailure),
          403: answered("forbidden: no grant; model_not_allowed", llmFailure),
          413: answered("request_too_large", llmFailure),
          429: answered("rate_limited, with Retry-After, ours or the upstream's", llmFailure),
          502: answered(
            "upstream_unauthorized, _rejected, _failed, _unreachable, _cut",
            llmFailure,
          ),
          503: answered("not_configured", z.union([llmFailure, describeErrorBody()])),
          504: answered("upstream_timeout", llmFailure),
        },
      },
    ],
  };
}
