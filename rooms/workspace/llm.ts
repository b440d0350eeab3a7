import { z } from "@hono/zod-openapi";
import { type Context, Hono } from "hono";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { bearerUser } from "./access.ts";
import { completionRequest } from "./contract.ts";
import type { WorkspaceAppEnv } from "./routes.ts";
import { TOOLS, type ToolDefinition, toolDefinition } from "./tools.ts";

export interface LlmEnv {
  /** Without it the proxy answers 503. */
  BRAINTRUST_API_KEY?: string;
  /** Braintrust logs each call below this project. */
  BRAINTRUST_PROJECT_ID?: string;
  /** An OpenAI-compatible API, up to where `/chat/completions` follows. Default: Braintrust's. */
  LLM_BASE_URL?: string;
  /** JSON, an array of definitions offered beside our own; one of the same name replaces ours. */
  LLM_TOOLS?: string;
}

const BASE_URL = "https://api.braintrust.dev/v1/proxy";
const REQUEST_BYTES = 4 * 1024 * 1024;
/** How long the upstream may take to its first byte, and from one to the next. */
const SILENCE_MS = 60_000;
const MESSAGE_LENGTH = 500;

/** What may go wrong, by the code a client sees: its HTTP status. */
const FAULTS = {
  unauthorized: 401,
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

/** Answered in OpenAI's own shape, `{"error":{message,type,code}}`, which its clients read. */
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

async function readRequest(request: Request, env: LlmEnv): Promise<{ stream: boolean }> {
  if (Number(request.headers.get("Content-Length")) > REQUEST_BYTES) {
    throw new LlmFault("request_too_large", `A request has at most ${REQUEST_BYTES} bytes`);
  }
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of request.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > REQUEST_BYTES) {
      throw new LlmFault("request_too_large", `A request has at most ${REQUEST_BYTES} bytes`);
    }
  }
  let value: unknown;
  try {
    value = JSON.parse(text + decoder.decode());
  } catch {
    throw new LlmFault("invalid_request", "The body is not JSON");
  }
  const parsed = completionRequest.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new LlmFault("invalid_request", `${issue?.path.join(".")}: ${issue?.message}`);
  }
  const { tools, ...rest } = parsed.data;
  const known = toolsOf(env);
  const definitions = tools?.map((tool) => {
    if (typeof tool !== "string") return tool;
    const definition = known.get(tool);
    if (definition) return definition;
    throw new LlmFault("unknown_tool", `There is no tool of this name: ${tool.slice(0, 64)}`);
  });
  return { ...rest, stream: rest.stream ?? false, ...(definitions && { tools: definitions }) };
}

/** What the upstream says of a request it refuses. It may quote the key: that never gets out. */
function quote(text: string, key: string): string {
  let message = text;
  try {
    const body = z.object({ error: z.object({ message: z.string() }) }).parse(JSON.parse(text));
    message = body.error.message;
  } catch {
    // Not in OpenAI's shape: as it is.
  }
  return message.replaceAll(key, "[key]").slice(0, MESSAGE_LENGTH);
}

/** The fault that an upstream's answer stands for, or null where it is none. */
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

/** Aborts the call to the upstream when it is silent for too long, or its client is gone. */
class Watch {
  readonly #controller = new AbortController();
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(client: AbortSignal) {
    client.addEventListener("abort", () => this.#controller.abort(client.reason), { once: true });
    this.heard();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  heard(): void {
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

  /** What `work` gives, unless the call is aborted first, also where `work` never settles. */
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

/** Makes of anything thrown by a read what its client is told. */
function cutFault(thrown: unknown): LlmFault {
  return thrown instanceof LlmFault
    ? thrown
    : new LlmFault("upstream_cut", "The upstream broke off in the middle of its answer");
}

async function readWhole(reader: Reader, first: Uint8Array, watch: Watch): Promise<Blob> {
  const parts = [first];
  try {
    for (;;) {
      const { done, value } = await watch.race(reader.read());
      if (done) return new Blob(parts);
      parts.push(value);
      watch.heard();
    }
  } catch (thrown) {
    throw cutFault(thrown);
  } finally {
    watch.stop();
  }
}

const DONE = /data: ?\[DONE\]\s*$/;
const TAIL_LENGTH = 64;

/**
 * An event stream as it arrives. Where it breaks off, falls silent or ends without `[DONE]`, the last
 * event is a fault in place of a chunk: the status has long been sent.
 */
function passOn(reader: Reader, first: Uint8Array, watch: Watch): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let tail = "";
  const note = (chunk: Uint8Array): Uint8Array => {
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
        controller.enqueue(note(next));
        next = null;
        return;
      }
      try {
        const { done, value } = await watch.race(reader.read());
        watch.heard();
        if (!done) {
          controller.enqueue(note(value));
          return;
        }
        watch.stop();
        if (!DONE.test(tail)) controller.enqueue(faultEvent(cutFault(null)));
      } catch (thrown) {
        watch.stop();
        controller.enqueue(faultEvent(cutFault(thrown)));
      }
      controller.close();
    },
    async cancel(reason) {
      watch.stop();
      await reader.cancel(reason);
    },
  });
}

async function complete(c: Context<WorkspaceAppEnv>): Promise<Response> {
  const { env } = c;
  const { BRAINTRUST_API_KEY: key, BRAINTRUST_PROJECT_ID: project } = env;
  if ((await bearerUser(c.req.raw, env)) === null) {
    throw new LlmFault("unauthorized", "A valid token is required");
  }
  if (!key) throw new LlmFault("not_configured", "No upstream is configured");
  const body = await readRequest(c.req.raw, env);

  const watch = new Watch(c.req.raw.signal);
  let upstream: Response;
  let reader: Reader | undefined;
  let first: Awaited<ReturnType<Reader["read"]>> | undefined;
  try {
    const base = (env.LLM_BASE_URL || BASE_URL).replace(/\/+$/, "");
    upstream = await watch.race(
      fetch(`${base}/chat/completions`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${key}`,
          "Content-Type": "application/json",
          ...(project && { "x-bt-parent": `project_id:${project}` }),
        },
        body: JSON.stringify(body),
        redirect: "manual",
        signal: watch.signal,
      }),
    );
    const fault = await watch.race(faultOf(upstream, key));
    if (fault) throw fault;
    reader = upstream.body?.getReader();
    // Headers may come long before an answer: only the first byte says that there is one.
    first = reader && (await watch.race(reader.read()));
  } catch (thrown) {
    watch.stop();
    if (thrown instanceof LlmFault) throw thrown;
    throw new LlmFault(
      reader ? "upstream_cut" : "upstream_unreachable",
      reader ? "The upstream broke off before its answer" : "The upstream cannot be reached",
    );
  }
  if (!reader || !first || first.done) {
    watch.stop();
    throw new LlmFault("upstream_cut", "The upstream gave no answer");
  }
  watch.heard();

  const contentType = upstream.headers.get("Content-Type") ?? "application/json";
  const headers = { "Content-Type": contentType, "Cache-Control": "no-store" };
  return contentType.startsWith("text/event-stream")
    ? new Response(passOn(reader, first.value, watch), { headers })
    : new Response(await readWhole(reader, first.value, watch), { headers });
}

/** OpenAI's chat completions by Braintrust's proxy, with a key that stays here. */
export function llmRoutes(): Hono<WorkspaceAppEnv> {
  const app = new Hono<WorkspaceAppEnv>();

  const answer = async (work: () => Promise<Response>): Promise<Response> => {
    try {
      return await work();
    } catch (thrown) {
      if (thrown instanceof LlmFault) return thrown.toResponse();
      throw thrown;
    }
  };
  app.get("/api/llm/tools", (c) =>
    answer(async () => c.json({ tools: [...toolsOf(c.env).values()] })),
  );
  app.post("/api/llm/chat/completions", (c) =>
    answer(() => inSpan("llm.upstream", () => complete(c))),
  );
  return app;
}
