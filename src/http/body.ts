import { RollcallError } from "../wire/errors.ts";

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
