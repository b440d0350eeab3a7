import type { Env, Hono } from "hono";

/** What a preflight of a route answers. Every origin may call: no route reads cookies. */
export interface CorsPolicy {
  /** `Access-Control-Allow-Methods`, as the contract writes it. */
  methods: string;
  /**
   * `Access-Control-Allow-Headers`, to which `last-event-id` is added where a page asks for it. Default:
   * the headers that the request names.
   */
  headers?: string;
  /** How long a browser may keep the answer, in seconds; without it, as long as it likes. */
  maxAgeS?: number;
}

/** Lets pages of every origin call `path`. Call it before the path's handlers are added. */
export function allowCors<E extends Env>(
  app: Hono<E>,
  path: string,
  { methods, headers, maxAgeS }: CorsPolicy,
): void {
  const preflight = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": methods,
    ...(maxAgeS !== undefined && { "Access-Control-Max-Age": `${maxAgeS}` }),
  };
  app.options(path, (c) => {
    const requested = c.req.header("Access-Control-Request-Headers");
    // Every reader of a stream sends it when it resumes.
    const resumes = /(^|,)\s*last-event-id\s*(,|$)/i.test(requested ?? "");
    const allowed = headers && resumes ? `${headers},last-event-id` : (headers ?? requested);
    return new Response(null, {
      status: 204,
      headers: { ...preflight, ...(allowed && { "Access-Control-Allow-Headers": allowed }) },
    });
  });
  app.use(path, async (c, next) => {
    await next();
    c.res.headers.set("Access-Control-Allow-Origin", "*");
  });
}
