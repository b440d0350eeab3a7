/** What the snippets of the documentation take from the reader's app. */

/** Of `wrangler types`. */
interface Env {
  PRESENCE: DurableObjectNamespace;
  CHAT: DurableObjectNamespace;
  JWT_SECRET: string;
  WEBHOOK_SECRET: string;
}
declare const env: Env;
declare const request: Request;

declare const user: { id: string; name: string };
declare function findUser(request: Request, env: Env): Promise<typeof user | null>;
declare function readLogin(
  request: Request,
  env: Env,
): Promise<typeof user & { avatar: string; role: "host" | "guest" }>;

declare const token: () => Promise<string>;
declare const freshToken: () => Promise<string>;
declare const backendToken: string;
declare const webhookSecret: string;

declare function show(...what: unknown[]): void;
declare function draw(...what: unknown[]): void;
declare function apply(change: import("rollcall/server").Change): Promise<void>;
