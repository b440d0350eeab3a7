/** The variables that say where a deployment is reached. */
export interface OriginEnv {
  /** The public address, such as `https://live.example.com`. */
  PUBLIC_URL?: string;
}

/** `localhost` and names below it, 127.0.0.0/8 and ::1, as `URL` writes them. */
const LOOPBACK = /^(?:(?:[\w-]+\.)*localhost\.?|127(?:\.\d{1,3}){3}|\[::1\])$/i;

/** Whether a request reached a host of this machine. A name that only resolves to it is none. */
export function isLoopback(request: Request): boolean {
  return LOOPBACK.test(new URL(request.url).hostname);
}

/**
 * The origin to write into links: the configured one, or the request's own on this machine. Undefined
 * elsewhere: a client chooses the `Host` that it sends, and caches would hand it to others.
 */
export function publicOrigin(request: Request, { PUBLIC_URL }: OriginEnv): string | undefined {
  if (PUBLIC_URL && URL.canParse(PUBLIC_URL)) return new URL(PUBLIC_URL).origin;
  return isLoopback(request) ? new URL(request.url).origin : undefined;
}
