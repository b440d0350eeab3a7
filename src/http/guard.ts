import type { Env, Hono } from "hono";
import { RollcallError } from "../wire/errors.ts";

/** What pages of other origins may do. Every origin may call: no route reads cookies. */
export interface CorsPolicy {
  /** `Access-Control-Allow-Methods`, as the contract writes it. Default: the methods of the route. */
  methods?: string;
  /** `Access-Control-Allow-Headers`, as the contract writes it. Default: the headers that a request names. */
  headers?: string;
}

/** What a path takes. */
export interface RouteRule {
  /** Methods with a handler. HEAD comes with GET, and OPTIONS is answered by {@link guardRoutes}. */
  methods: readonly ("GET" | "POST" | "PUT" | "DELETE")[];
  /** For routes that pages call. Absent for sockets: a browser keeps pages out. */
  cors?: CorsPolicy;
  /** For backends: no page may read an answer, and nobody may keep one. Preflights are as `cors` says. */
  isForBackends?: boolean;
  /** A stream: EventSource and other readers send `Last-Event-ID` when they come back. */
  isStream?: boolean;
}

/** How long a browser may keep the answer to a preflight, in seconds. */
const MAX_AGE_S = 86_400;
/** Response headers that pages may read, beside those that browsers always show. */
const EXPOSED = "Retry-After";

function preflightHeaders(
  { methods, headers }: CorsPolicy,
  rule: RouteRule,
  requested: string | undefined,
): Record<string, string> {
  const resumes = rule.isStream && /(?:^|,)\s*last-event-id\s*(?:,|$)/i.test(requested ?? "");
  const allowed = headers && resumes ? `${headers},last-event-id` : (headers ?? requested);
  return {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": methods ?? `${rule.methods.join(",")},OPTIONS`,
    "Access-Control-Max-Age": `${MAX_AGE_S}`,
    ...(allowed && { "Access-Control-Allow-Headers": allowed }),
  };
}

/**
 * Answers preflights, lets pages read the answers of routes that are for them, and refuses methods that
 * a path does not take: 405 with `Allow`. Call it before the handlers of `rules`' paths are added.
 *
 * @param rules by path, as Hono writes it
 */
export function guardRoutes<E extends Env>(app: Hono<E>, rules: Record<string, RouteRule>): void {
  for (const [path, rule] of Object.entries(rules)) {
    const { methods, cors, isForBackends } = rule;
    const taken: readonly string[] = methods.includes("GET") ? [...methods, "HEAD"] : methods;
    const allow = [...taken, "OPTIONS"].join(", ");

    app.options(path, (c) => {
      const requested = c.req.header("Access-Control-Request-Headers");
      const headers = cors && preflightHeaders(cors, rule, requested);
      return new Response(null, { status: 204, headers: { Allow: allow, ...headers } });
    });
    app.use(path, async (c, next) => {
      await next();
      // The answer to an upgrade is for no page, and its headers cannot change.
      if (c.res.status === 101) return;
      if (c.res.status === 405) c.res.headers.set("Allow", allow);
      if (isForBackends) c.res.headers.set("Cache-Control", "no-store");
      if (!cors || isForBackends) return;
      c.res.headers.set("Access-Control-Allow-Origin", "*");
      c.res.headers.set("Access-Control-Expose-Headers", EXPOSED);
    });
    app.use(path, (c, next) => {
      if (taken.includes(c.req.method)) return next();
      throw new RollcallError("method_not_allowed", `${c.req.path} takes ${allow}`);
    });
  }
}
