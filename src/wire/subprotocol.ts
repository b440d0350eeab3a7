/** The subprotocol of WebSockets whose client sends its token beside it: it then stands in no URL, and in no log of URLs. */
const NAME = "rollcall";
const TOKEN_PREFIX = "token.";
const HEADER = "Sec-WebSocket-Protocol";

/** The subprotocols that a client asks for, with its token. */
export function subprotocolsFor(token: string): string[] {
  return [NAME, TOKEN_PREFIX + toBase64Url(new TextEncoder().encode(token))];
}

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** RFC 4648, 5, without padding. Not every runtime of clients has `btoa`. */
function toBase64Url(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const [a = 0, b = 0, c = 0] = bytes.subarray(at, at + 3);
    const bits = (a << 16) | (b << 8) | c;
    const digits = [bits >> 18, (bits >> 12) & 63, (bits >> 6) & 63, bits & 63];
    const count = Math.min(bytes.length - at, 3) + 1;
    for (const digit of digits.slice(0, count)) text += DIGITS[digit];
  }
  return text;
}

function offeredBy(request: Request): string[] {
  return (request.headers.get(HEADER) ?? "").split(",").map((name) => name.trim());
}

/** The token among the subprotocols of an upgrade; null where there is none that can be read. */
export function subprotocolToken(request: Request): string | null {
  const offered = offeredBy(request).find((name) => name.startsWith(TOKEN_PREFIX));
  if (offered === undefined) return null;
  try {
    const base64 = offered.slice(TOKEN_PREFIX.length).replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes) || null;
  } catch {
    return null;
  }
}

/** The answer's header that a client which offered subprotocols waits for. */
export function selectedSubprotocol(request: Request): Record<string, string> {
  return offeredBy(request).includes(NAME) ? { [HEADER]: NAME } : {};
}
