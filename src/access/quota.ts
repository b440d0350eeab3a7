import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import { isDevelopment } from "./secrets.ts";

/** Names of the rate limits' bindings, as in `wrangler.toml`. */
export type Quota =
  | "LIMIT_CONNECTS"
  | "LIMIT_LISTS"
  | "LIMIT_MOODS"
  | "LIMIT_PUBLISHES"
  | "LIMIT_HEARTBEATS"
  | "LIMIT_UPLOADS"
  | "LIMIT_LLM_CALLS";

/** Cloudflare's rate limit. It counts for each of its locations, and approximately. */
interface RateLimit {
  limit(options: { key: string }): Promise<{ success: boolean }>;
}

const missing = new Set<Quota>();

/**
 * Counts a request of `key` towards a limit that honest use does not reach, before an actor wakes.
 * Development has no limits. A deployment without the binding works without the limit, and logs so
 * once.
 *
 * @param key a user, or the address of someone who is none ({@link addressOf})
 * @throws RollcallError `rate_limited` (429) above the limit
 */
export async function spend(env: object, quota: Quota, key: string): Promise<void> {
  if (isDevelopment(env as { ENVIRONMENT?: string })) return;
  const binding = (env as Partial<Record<Quota, RateLimit>>)[quota];
  if (!binding) {
    if (!missing.has(quota)) log("limit_missing", { name: quota });
    missing.add(quota);
    return;
  }
  const { success } = await binding.limit({ key });
  if (!success) throw new RollcallError("rate_limited", "Too many requests");
}

/** Hextets of an IPv6 address that a provider gives to one customer: /64. */
const NETWORK_HEXTETS = 4;

/** Where a request comes from, as Cloudflare says. An IPv6 address counts as its /64. */
export function addressOf(request: Request): string {
  const address = request.headers.get("CF-Connecting-IP") ?? "unknown";
  if (!address.includes(":")) return address;
  const [head = "", tail] = address.split("::");
  const before = head.split(":").filter(Boolean);
  const after = tail?.split(":").filter(Boolean) ?? [];
  const zeros = new Array<string>(Math.max(0, 8 - before.length - after.length)).fill("0");
  const hextets = tail === undefined ? before : [...before, ...zeros, ...after];
  const network = hextets.slice(0, NETWORK_HEXTETS).map((part) => Number.parseInt(part, 16));
  return network.map((part) => part.toString(16)).join(":");
}
