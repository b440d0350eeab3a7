import { createRoute, z } from "@hono/zod-openapi";
import { toolDefinition } from "./tools.ts";

/**
 * The workspace's routes as `/openapi.json` tells of them. Shapes only: the main Worker, which serves
 * the description, imports none of the code that answers.
 */

const tags = ["Workspace"];
const security = [{ bearer: [] }];
const json = <T extends z.ZodType>(description: string, schema: T) => ({
  description,
  content: { "application/json": { schema } },
});

const failure = z.object({ error: z.string(), details: z.string() }).openapi("Error");
const imageFailure = z
  .object({ error: z.string(), code: z.enum(["AUTH_REQUIRED", "NO_FILE", "INVALID_FILE"]) })
  .openapi("ImageError");
const llmFailure = z
  .object({ error: z.object({ message: z.string(), type: z.string(), code: z.string() }) })
  .openapi("LlmError");

export const completionRequest = z.looseObject({
  model: z.string().min(1).max(256),
  messages: z.array(z.record(z.string(), z.unknown())).min(1),
  stream: z.boolean().optional(),
  tools: z.array(z.union([z.string(), z.record(z.string(), z.unknown())])).optional(),
});

const rpc = z.looseObject({
  _tag: z.string(),
  id: z.string().optional(),
  tag: z.string().optional(),
});
const sync = {
  path: "/sync",
  tags,
  request: {
    query: z.object({
      storeId: z.string().min(1).max(128).openapi({ description: "The workspace" }),
      transport: z.enum(["ws", "http"]),
      payload: z
        .string()
        .optional()
        .openapi({ description: "JSON of `{instanceId, authToken}`, URL-encoded twice" }),
    }),
  },
} as const;
const syncRefusals = {
  400: json("storeId or transport is missing or malformed", failure),
  401: json("TOKEN_MISSING, TOKEN_INVALID, GRACE_PERIOD_EXPIRED, TOKEN_VERSION_STALE", failure),
  403: json("FORBIDDEN: no member, or instanceId is not storeId", failure),
  503: json("AUTH_SERVICE_ERROR, or JWT_SECRET is not configured", failure),
};

export const workspaceDescription = [
  createRoute({
    ...sync,
    method: "get",
    summary: "LiveStore's sync over a WebSocket",
    description: "`transport=ws` and an upgrade, as LiveStore's own clients ask for it.",
    responses: {
      101: { description: "The socket" },
      ...syncRefusals,
      426: json("No upgrade", failure),
    },
  }),
  createRoute({
    ...sync,
    method: "post",
    summary: "LiveStore's sync over HTTP",
    description:
      "`transport=http`; the body is that of LiveStore's own clients, a message of Effect RPC.",
    request: {
      ...sync.request,
      body: {
        required: true,
        content: { "application/json": { schema: z.union([rpc, z.array(rpc)]) } },
      },
    },
    responses: {
      200: {
        description: "LiveStore's answer",
        content: { "application/json": { schema: z.array(z.looseObject({ _tag: z.string() })) } },
      },
      ...syncRefusals,
    },
  }),
  createRoute({
    method: "post",
    path: "/api/upload-image",
    tags,
    security,
    summary: "Stores a cover of at most 5 MiB: JPEG, PNG, WebP or GIF, by its first bytes",
    request: {
      body: {
        required: true,
        content: {
          "multipart/form-data": {
            schema: z.object({ file: z.string().openapi({ format: "binary" }) }),
          },
        },
      },
    },
    responses: {
      200: json("Where it is", z.object({ url: z.string(), key: z.string() })),
      400: json("NO_FILE or INVALID_FILE", imageFailure),
      401: json("AUTH_REQUIRED", imageFailure),
      503: json("JWT_SECRET is not configured", failure),
    },
  }),
  createRoute({
    method: "get",
    path: "/api/images/{key}",
    tags,
    summary: "An uploaded image, for all",
    request: {
      params: z.object({ key: z.string().openapi({ description: "`covers/<uuid>.<extension>`" }) }),
      headers: z.object({ "If-None-Match": z.string().optional() }),
    },
    responses: {
      200: {
        description: "The image",
        content: { "image/*": { schema: z.string().openapi({ format: "binary" }) } },
      },
      304: { description: "The caller has it" },
      404: json("No such image", failure),
    },
  }),
  createRoute({
    method: "get",
    path: "/api/llm/tools",
    tags,
    summary: "The tools that a completion may name",
    responses: {
      200: json(
        "Definitions as OpenAI's chat completions take them",
        z.object({ tools: z.array(toolDefinition) }),
      ),
      503: json("LLM_TOOLS is malformed", llmFailure),
    },
  }),
  createRoute({
    method: "post",
    path: "/api/llm/chat/completions",
    tags,
    security,
    summary: "OpenAI's chat completions by Braintrust's proxy",
    description: "At most 4 MiB. Of `tools`, a string names one of `/api/llm/tools`.",
    request: {
      body: { required: true, content: { "application/json": { schema: completionRequest } } },
    },
    responses: {
      200: {
        description: "The upstream's answer; with `stream: true` its events, `[DONE]` at the end",
        content: {
          "application/json": { schema: z.looseObject({}) },
          "text/event-stream": { schema: z.string() },
        },
      },
      400: json("invalid_request, unknown_tool", llmFailure),
      401: json("unauthorized", llmFailure),
      413: json("request_too_large", llmFailure),
      429: json("rate_limited, with the upstream's Retry-After", llmFailure),
      502: json("upstream_unauthorized, _rejected, _failed, _unreachable, _cut", llmFailure),
      503: json("not_configured", z.union([llmFailure, failure])),
      504: json("upstream_timeout", llmFailure),
    },
  }),
];
