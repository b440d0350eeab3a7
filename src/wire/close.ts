/**
 * Close codes. 1000–1015 are RFC 6455's; 44xx are ours, close to the HTTP status they stand for.
 * A client stays away after `leave`, `badRequest`, `forbidden` and `kicked`, and reconnects after all others.
 */
export const CLOSE = {
  leave: 1000,
  goingAway: 1001,
  tooBig: 1009,
  internal: 1011,
  tryLater: 1013,
  badRequest: 4400,
  unauthorized: 4401,
  forbidden: 4403,
  kicked: 4404,
  dead: 4408,
  rateLimited: 4429,
} as const;

const FINAL: ReadonlySet<number> = new Set([
  CLOSE.leave,
  CLOSE.badRequest,
  CLOSE.unauthorized,
  CLOSE.forbidden,
  CLOSE.kicked,
]);

/** Whether a close with this code ends a session of protocol 3: any other only loses its socket. */
export function endsSession(code: number): boolean {
  return FINAL.has(code);
}

/** Bytes of a close frame's reason, by RFC 6455. */
const REASON_BYTES = 123;

/** `code` if a close frame may carry it, else 1000: RFC 6455 reserves 1004–1006 and 1015. */
export function sendableCode(code: number): number {
  const isProtocols = code >= 1000 && code <= 1014 && (code < 1004 || code > 1006);
  return isProtocols || (code >= 3000 && code <= 4999) ? code : CLOSE.leave;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The longest beginning of `reason` that fits a close frame: 123 bytes of UTF-8. */
export function cutReason(reason: string): string {
  const bytes = encoder.encode(reason);
  if (bytes.byteLength <= REASON_BYTES) return reason;
  let end = REASON_BYTES;
  // 10xxxxxx continues a character: the cut goes before the byte that begins it.
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return decoder.decode(bytes.subarray(0, end));
}
