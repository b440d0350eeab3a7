import { type Context, Hono } from "hono";
import * as z from "zod/mini";
import { spend } from "../../src/access/quota.ts";
import { readBody } from "../../src/http/body.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { bearerUser } from "./access.ts";
import {
  type CompletionRequest,
  completionRequest,
  type ToolDefinition,
  toolDefinition,
} from "./contract.ts";
import { TOOLS } from "./tools.ts";

export interface LlmEnv {
  ENVIRONMENT?: string;
  /** Without it the proxy answers 503. */
  BRAINTRUST_API_KEY?: string;
  /** Braintrust logs each call below this project. */
  BRAINTRUST_PROJECT_ID?: string;
  /** Base URL of an OpenAI-compatible API, without `/chat/completions`. Default: Braintrust's. */
  LLM_BASE_URL?: string;
  /** The models that may be called, with commas between. Default: all. */
  LLM_MODELS?: string;
  /**
   * The most tokens that a completion may ask for. One that asks for no number gets this one. Default: no
   * limit.
   */
  LLM_MAX_TOKENS?: string;
  /** The most answers that one call may ask for. Default 4. */
  LLM_MAX_N?: string;
  /** JSON: an array of definitions, offered beside ours. One with the name of ours replaces it. */
  LLM_TOOLS?: string;
}

const BASE_URL = "https://api.braintrust.dev/v1/proxy";
const REQUEST_BYTES = 4 * 1024 * 1024;
/** The longest wait for the upstream's first byte, and from one byte to the next. */
const SILENCE_MS = 60_000;
const MESSAGE_LENGTH = 500;

/** HTTP statuses by the code that a client receives. */
const FAULTS = {
  unauthorized: 401,
  forbidden: 403,
  model_not_allowed: 403,
  invalid_request: 400,
  unknown_tool: 400,
  request_too_large: 413,
  not_configured: 503,
  upstream_unauthorized: 502,
  upstream_rejected: 502,
  upstream_failed: 502,
  upstream_unreachable: 502,
  upstream_cut: 502,
  upstream_timeout: 504,
  rate_limited: 429,
} as const;
type FaultCode = keyof typeof FAULTS;

/** An error in OpenAI's own shape, `{"error":{message,type,code}}`, which its clients read. */
class LlmFault extends Error {
  override readonly name = "LlmFault";
  readonly code: FaultCode;
  readonly headers: Record<string, string>;

  constructor(code: FaultCode, message: string, headers: Record<string, string> = {}) {
    super(message);
    this.code = code;
    this.headers = headers;
  }

  get body(): object {
    const type = FAULTS[this.code] >= 500 ? "upstream_error" : "invalid_request_error";
    return { error: { message: this.message, type, code: this.code } };
  }

  toResponse(): Response {
    return Response.json(this.body, { status: FAULTS[this.code], headers: this.headers });
  }
}

function toolsOf(env: LlmEnv): Map<string, ToolDefinition> {
  let configured: ToolDefinition[] = [];
  if (env.LLM_TOOLS) {
    try {
      configured = z.array(toolDefinition).parse(JSON.parse(env.LLM_TOOLS));
    } catch (error) {
      log("llm_tools_malformed", { error });
      throw new LlmFault("not_configured", "LLM_TOOLS is not a list of tool definitions");
    }
  }
  return new Map([...TOOLS, ...configured].map((tool) => [tool.function.name, tool]));
}

const MAX_N = 4;

/** The limit that a variable sets. */
function limitOf(text: string | undefined, fallback: number): number {
  if (!text) return fallback;
  const limit = Number(text);
  if (Number.isSafeInteger(limit) && limit >= 1) return limit;
  log("llm_limit_malformed");
  throw new LlmFault("not_configured", "A limit of this deployment is malformed");
}

/**
 * Holds a completion against what this deployment pays for.
 *
 * @returns what is to be sent instead of its own fields
 */
function limited(wanted: CompletionRequest, env: LlmEnv): { max_tokens?: number } {
  const models = (env.LLM_MODELS ?? "").split(",").flatMap((name) => name.trim() || []);
  // Some upstreams take further models, to call when the first one fails.
  const isOffered = models.includes(wanted.model) && !("models" in wanted);
  if (models.length > 0 && !isOffered) {
    throw new LlmFault("model_not_allowed", "This server does not offer this model");
  }
  const maxN = limitOf(env.LLM_MAX_N, MAX_N);
  if ((wanted.n ?? 1) > maxN) throw new LlmFault("invalid_request", `n is at most ${maxN}`);
  const maxTokens = limitOf(env.LLM_MAX_TOKENS, Number.POSITIVE_INFINITY);
  const { max_tokens: tokens, max_completion_tokens: newer } = wanted;
  if (Math.max(tokens ?? 0, newer ?? 0) > maxTokens) {
    throw new LlmFault("invalid_request", `max_tokens is at most ${maxTokens}`);
  }
  const isOpen = (tokens ?? newer ?? null) === null && Number.isFinite(maxTokens);
  return isOpen ? { max_tokens: maxTokens } : {};
}

async function readRequest(request: Request, env: LlmEnv): Promise<{ stream: boolean }> {
  const text = await readBody(request, REQUEST_BYTES);
  if (text === null) {
    throw new LlmFault("request_too_large", `A request has at most ${REQUEST_BYTES} bytes`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new LlmFault("invalid_request", "The body is not JSON");
  }
  const parsed = completionRequest.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const path = issue?.path.map(String).join(".");
    throw new LlmFault(
      "invalid_request",
      path ? `${path}: ${issue?.message}` : `${issue?.message}`,
    );
  }
  const { tools, ...rest } = parsed.data;
  const known = toolsOf(env);
  const definitions = tools?.map((tool) => {
    if (typeof tool !== "string") return tool;
    const definition = known.get(tool);
    if (definition) return definition;
    throw new LlmFault("unknown_tool", `There is no tool of this name: ${tool.slice(0, 64)}`);
  });
  const stream = rest.stream ?? false;
  const limits = limited(parsed.data, env);
  return { ...rest, ...limits, stream, ...(definitions && { tools: definitions }) };
}

/** The upstream's reason for a refusal. It may quote the key, which is removed. */
function quote(text: string, key: string): string {
  let message = text;
  try {
    const body = z.object({ error: z.object({ message: z.string() }) }).parse(JSON.parse(text));
    message = body.error.message;
  } catch {
    // Not in OpenAI's shape: the text is passed on unchanged.
  }
  return message.replaceAll(key, "[key]").slice(0, MESSAGE_LENGTH);
}

/** The fault that an upstream's answer means, or null when it means none. */
async function faultOf(upstream: Response, key: string): Promise<LlmFault | null> {
  const { status } = upstream;
  if (status >= 200 && status < 300) return null;
  log("llm_upstream_refused", { status });
  if (status === 429) {
    await upstream.body?.cancel();
    const retryAfter = upstream.headers.get("Retry-After");
    const headers = retryAfter === null ? {} : { "Retry-After": retryAfter };
    return new LlmFault("rate_limited", "The upstream takes no more requests now", headers);
  }
  if (status === 401 || status === 403) {
    await upstream.body?.cancel();
    return new LlmFault("upstream_unauthorized", "The upstream does not accept this deployment");
  }
  if (status >= 400 && status < 500) {
    return new LlmFault("upstream_rejected", quote(await upstream.text(), key));
  }
  await upstream.body?.cancel();
  return new LlmFault("upstream_failed", `The upstream answered ${status}`);
}

/** Aborts the call to the upstream when the upstream is silent for too long, or the client is gone. */
class Watchdog {
  readonly #controller = new AbortController();
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(client: AbortSignal) {
    client.addEventListener("abort", () => this.#controller.abort(client.reason), { once: true });
    this.reset();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the wait for the next byte. */
  reset(): void {
    this.stop();
    this.#timer = setTimeout(() => {
      const seconds = SILENCE_MS / 1000;
      this.#controller.abort(
        new LlmFault("upstream_timeout", `The upstream was silent for ${seconds} s`),
      );
    }, SILENCE_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** The result of `work`. Rejects when the call is aborted first, even if `work` never settles. */
  async race<T>(work: Promise<T>): Promise<T> {
    const { signal } = this;
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([work, aborted.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}

type Reader = ReadableStreamDefaultReader<Uint8Array>;

/** The fault for an error of a read. */
function cutFault(thrown: unknown): LlmFault {
  return thrown instanceof LlmFault
    ? thrown
    : new LlmFault("upstream_cut", "The upstream broke off in the middle of its answer");
}

async function readWhole(reader: Reader, first: Uint8Array, watchdog: Watchdog): Promise<Blob> {
  const parts = [first];
  try {
    for (;;) {
      const { done, value } = await watchdog.race(reader.read());
      if (done) return new Blob(parts);
      parts.push(value);
      watchdog.reset();
    }
  } catch (thrown) {
    throw cutFault(thrown);
  } finally {
    watchdog.stop();
  }
}

const DONE = /data: ?\[DONE\]\s*$/;
const TAIL_LENGTH = 64;

/**
 * Forwards an event stream as it arrives. When it breaks off, falls silent or ends without `[DONE]`,
 * a fault is its last event: the status was sent before.
 */
function forwardStream(
  reader: Reader,
  first: Uint8Array,
  watchdog: Watchdog,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let tail = "";
  const withTail = (chunk: Uint8Array): Uint8Array => {
    const text = String.fromCharCode(...chunk.subarray(-TAIL_LENGTH));
    tail = (tail + text).slice(-TAIL_LENGTH);
    return chunk;
  };
  const faultEvent = (fault: LlmFault): Uint8Array => {
    log("llm_upstream_broke_off", { code: fault.code });
    return encoder.encode(`\n\ndata: ${JSON.stringify(fault.body)}\n\n`);
  };
  let next: Uint8Array | null = first;
  return new ReadableStream({
    async pull(controller) {
      if (next) {
        controller.enqueue(withTail(next));
        next = null;
        return;
      }
      try {
        const { done, value } = await watchdog.race(reader.read());
        watchdog.reset();
        if (!done) {
          controller.enqueue(withTail(value));
          return;
        }
        watchdog.stop();
        if (!DONE.test(tail)) controller.enqueue(faultEvent(cutFault(null)));
      } catch (thrown) {
        watchdog.stop();
        controller.enqueue(faultEvent(cutFault(thrown)));
      }
      controller.close();
    },
    async cancel(reason) {
      watchdog.stop();
      await reader.cancel(reason);
    },
  });
}

/** A call costs money: it takes a user whose grant allows it. */
async function requireUser(request: Request, env: LlmEnv): Promise<void> {
  let userId: string | null;
  try {
    userId = await bearerUser(request, env, "llm", "call");
    if (userId !== null) await spend(env, "LIMIT_LLM_CALLS", userId);
  } catch (thrown) {
    const { code, message = "" } = thrown instanceof RollcallError ? thrown : {};
    if (code === "forbidden") throw new LlmFault("forbidden", message);
    if (code !== "rate_limited") throw thrown;
    throw new LlmFault("rate_limited", message, { "Retry-After": "10" });
  }
  if (userId === null) throw new LlmFault("unauthorized", "A valid token is required");
}

async function complete<E extends LlmEnv>(c: Context<{ Bindings: E }>): Promise<Response> {
  const { env } = c;
  const { BRAINTRUST_API_KEY: key, BRAINTRUST_PROJECT_ID: project } = env;
  await requireUser(c.req.raw, env);
  if (!key) throw new LlmFault("not_configured", "No upstream is configured");
  const body = await readRequest(c.req.raw, env);

  const watchdog = new Watchdog(c.req.raw.signal);
  let upstream: Response;
  let reader: Reader | undefined;
  let first: Awaited<ReturnType<Reader["read"]>> | undefined;
  try {
    const base = (env.LLM_BASE_URL || BASE_URL).replace(/\/+$/, "");
    upstream = await watchdog.race(
      fetch(`${base}/chat/completions`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${key}`,
          "Content-Type": "application/json",
          ...(project && { "x-bt-parent": `project_id:${project}` }),
        },
        body: JSON.stringify(body),
        redirect: "manual",
        signal: watchdog.signal,
      }),
    );
    const fault = await watchdog.race(faultOf(upstream, key));
    if (fault) throw fault;
    reader = upstream.body?.getReader();
    // Headers may come long before an answer: only the first byte shows that there is one.
    first = reader && (await watchdog.race(reader.read()));
  } catch (thrown) {
    watchdog.stop();
    if (thrown instanceof LlmFault) throw thrown;
    throw new LlmFault(
      reader ? "upstream_cut" : "upstream_unreachable",
      reader ? "The upstream broke off before its answer" : "The upstream cannot be reached",
    );
  }
  if (!reader || !first || first.done) {
    watchdog.stop();
    throw new LlmFault("upstream_cut", "The upstream gave no answer");
  }
  watchdog.reset();

  // Not the upstream's own type: what it sends must never become a page of our origin.
  const isStream = /^text\/event-stream\b/i.test(upstream.headers.get("Content-Type") ?? "");
  const headers = {
    "Content-Type": isStream ? "text/event-stream" : "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
  };
  return isStream
    ? new Response(forwardStream(reader, first.value, watchdog), { headers })
    : new Response(await readWhole(reader, first.value, watchdog), { headers });
}

/** OpenAI's chat completions by Braintrust's proxy. The key never leaves this Worker. */
export function llmRoutes<E extends LlmEnv>(): Hono<{ Bindings: E }> {
  const app = new Hono<{ Bindings: E }>();
  app.get("/api/llm/tools", (c) => c.json({ tools: [...toolsOf(c.env).values()] }));
  app.post("/api/llm/chat/completions", (c) => inSpan("llm.upstream", () => complete(c)));
  app.onError((thrown) =>
    thrown instanceof LlmFault ? thrown.toResponse() : errorResponse(thrown),
  );
  return app;
}
