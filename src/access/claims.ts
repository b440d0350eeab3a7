import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";

const PREFIX = "workspace-claims-version:";

/** Both caches together: after 60 s a raised version is valid everywhere. */
const KV_CACHE_SECONDS = 30;
const MEMORY_CACHE_MS = 30_000;
/** Users whose version an isolate caches. */
const CACHED = 10_000;

/** By user, in this isolate. */
const cached = new Map<string, { version: number; readAtMs: number }>();

/**
 * The lowest version of a user's claim `workspaces` that is valid, at most 60 s old; 0 where none is set.
 *
 * @param kv `workspace-claims-version:<userId>` → the version
 * @throws RollcallError `unavailable` when it cannot be read, or is no number
 */
export async function requiredClaimsVersion(userId: string, kv: KVNamespace): Promise<number> {
  const known = cached.get(userId);
  const now = Date.now();
  if (known && now - known.readAtMs < MEMORY_CACHE_MS) return known.version;

  let text: string | null;
  try {
    text = await kv.get(PREFIX + userId, { cacheTtl: KV_CACHE_SECONDS });
  } catch (error) {
    log("claims_version_unavailable", { error });
    throw new RollcallError("unavailable", "The claims version cannot be read");
  }
  const version = text === null ? 0 : Number(text);
  if (!Number.isFinite(version) || text?.trim() === "") {
    log("claims_version_malformed");
    throw new RollcallError("unavailable", "The claims version is malformed");
  }
  cached.delete(userId);
  cached.set(userId, { version, readAtMs: now });
  const [oldest] = cached.size > CACHED ? cached.keys() : [];
  if (oldest !== undefined) cached.delete(oldest);
  return version;
}
