import { type ErrorCode, RollcallError } from "../wire/errors.ts";

/**
 * What is still read of a body that is over its limit, in bytes: an answer in the middle of an
 * upload is lost on some ways to the client.
 */
const DRAIN_BYTES = 1_048_576;

/**
 * The body of a request as text, of at most `limitBytes` bytes; null when it has more. One that
 * announces more is not read at all.
 *
 * @throws RollcallError `bad_request` when the upload breaks off: the client's doing, not ours
 */
export async function readBody(request: Request, limitBytes: number): Promise<string | null> {
  try {
    return await read(request, limitBytes);
  } catch {
    throw new RollcallError("bad_request", "The body broke off");
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

async function read(request: Request, limitBytes: number): Promise<string | null> {
  const announced = request.headers.get("Content-Length");
  // HTTP sees to it that no more bytes come than were announced.
  if (announced !== null) return Number(announced) > limitBytes ? null : request.text();
  if (!request.body) return "";

  const reader = request.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return size > limitBytes ? null : text + decoder.decode();
    size += value.byteLength;
    if (size <= limitBytes) text += decoder.decode(value, { stream: true });
    else if (size > limitBytes + DRAIN_BYTES) {
      await reader.cancel();
      return null;
    }
  }
}
