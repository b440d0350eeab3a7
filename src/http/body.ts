import type * as z from "zod/mini";
import { type ErrorCode, RollcallError } from "../wire/errors.ts";

/**
 * How much of a refused body is still read, in bytes and in ms, before the answer: a sender that is
 * in the middle of a write may never see an answer that comes earlier. One that pauses is not waited for.
 */
const DRAIN_BYTES = 16 * 1024 * 1024;
const DRAIN_MS = 5_000;
const PAUSE_MS = 500;

/**
 * The body of a request as text, of at most `limitBytes` bytes; null when it has more. The rest of
 * such a body is drained.
 *
 * @throws RollcallError `bad_request` when the upload breaks off: the client's fault, not ours
 */
export async function readBody(request: Request, limitBytes: number): Promise<string | null> {
  try {
    return await read(request, limitBytes, (body) => body.text());
  } catch {
    throw new RollcallError("bad_request", "The body broke off");
  }
}

/**
 * The body of a request as a form, of at most `limitBytes` bytes with everything around its fields;
 * null when it has more. The rest of such a body is drained.
 *
 * @throws RollcallError `bad_request` when the body is no form, or the upload breaks off
 */
export async function readForm(request: Request, limitBytes: number): Promise<FormData | null> {
  try {
    return await read(request, limitBytes, (body) => body.formData());
  } catch {
    throw new RollcallError("bad_request", "The body is malformed or broke off");
  }
}

/** What a route takes as a JSON body, and how its contract words a refusal. */
export interface JsonBody {
  limitBytes: number;
  /** Code of a body that is too large; default `too_large`. */
  tooLarge?: ErrorCode;
  /** Code of a body that is no JSON; default `bad_request`. */
  notJson?: ErrorCode;
  /** Message for a body that is no JSON; default "The body is not JSON". */
  message?: string;
  /** Turns the text into a value; default `JSON.parse`. */
  parse?(text: string): unknown;
}

/**
 * The body of a request as JSON, whatever its content type says.
 *
 * @throws RollcallError with the codes of `options`, or `bad_request` when the upload breaks off
 */
export async function readJson(request: Request, options: JsonBody): Promise<unknown> {
  const { limitBytes, tooLarge = "too_large", notJson = "bad_request" } = options;
  const text = await readBody(request, limitBytes);
  if (text === null) {
    throw new RollcallError(tooLarge, `The body has more than ${limitBytes} bytes`);
  }
  try {
    return (options.parse ?? JSON.parse)(text);
  } catch {
    throw new RollcallError(notJson, options.message ?? "The body is not JSON");
  }
}

/** @throws RollcallError `unsupported_media_type` unless the request says that its body is JSON */
export function requireJsonType(request: Request): void {
  if (/^application\/json\s*(?:;|$)/i.test(request.headers.get("Content-Type") ?? "")) return;
  throw new RollcallError("unsupported_media_type", "Send application/json");
}

/** A value as a schema makes it. @throws RollcallError `bad_request` with the first fault and its place */
export function parseValue<T>(schema: z.ZodMiniType<T>, value: unknown): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  const [issue] = error.issues;
  const path = issue?.path.join(".") || undefined;
  throw new RollcallError("bad_request", issue?.message ?? "Invalid body", path);
}

/** Reads the body of a request that is refused for another reason, as far as its sender needs it. */
export async function drainBody({ body, bodyUsed }: Request): Promise<void> {
  if (body && !bodyUsed) await drain(body.getReader());
}

async function read<T>(
  request: Request,
  limitBytes: number,
  parse: (body: Request | Response) => Promise<T>,
): Promise<T | null> {
  const { body, headers } = request;
  const announced = headers.get("Content-Length");
  if (announced !== null && Number(announced) > limitBytes) {
    await drainBody(request);
    return null;
  }
  // HTTP ensures that no more bytes come than were announced.
  if (announced !== null || !body) return parse(request);

  const reader = body.getReader();
  let size = 0;
  const limited = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) {
        controller.close();
        return;
      }
      size += value.byteLength;
      if (size <= limitBytes) controller.enqueue(value);
      else controller.error(new Error("The body is too large"));
    },
  });
  try {
    return await parse(new Response(limited, { headers }));
  } catch (thrown) {
    if (size <= limitBytes) throw thrown;
    await drain(reader);
    return null;
  }
}

async function drain(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | null = null;
  const late = (ms: number) =>
    new Promise<"late">((resolve) => {
      timer = setTimeout(resolve, ms, "late");
    });
  const endMs = Date.now() + DRAIN_MS;
  try {
    for (let left = DRAIN_BYTES; left > 0; ) {
      const part = await Promise.race([
        reader.read(),
        late(Math.min(PAUSE_MS, endMs - Date.now())),
      ]);
      clearTimeout(timer);
      if (part === "late") break;
      if (part.done) return;
      left -= part.value.byteLength;
    }
    await reader.cancel();
  } catch {
    // The sender is gone.
  } finally {
    clearTimeout(timer);
  }
}
