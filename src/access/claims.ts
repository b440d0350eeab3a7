import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import { isWellFormed } from "../wire/text.ts";

const VERSION_PREFIX = "workspace-claims-version:";
const REVOKED_PREFIX = "revoked:";

/** Both caches together: after 60 s a raised number is valid everywhere. */
const KV_CACHE_SECONDS = 30;
const MEMORY_CACHE_MS = 30_000;
const SPREAD_MS = 10_000;
/** Numbers that an isolate caches. */
const CACHED = 10_000;
/** A daemon's token lives for at most so long, in seconds; those of users may live for longer. */
const DAEMON_TOKEN_S = 366 * 86_400;
/** A workspace takes tokens that have expired for so long by default, in seconds. */
const GRACE_S = 86_400;
/** Bytes of a key in KV, less those of a prefix. */
const KEY_BYTES = 480;

/** By key, in this isolate. */
const cached = new Map<string, { value: number; readAtMs: number }>();

function remember(key: string, value: number): void {
  cached.delete(key);
  // Users who came together are not all read again together.
  cached.set(key, { value, readAtMs: Date.now() - Math.random() * SPREAD_MS });
  const [oldest] = cached.size > CACHED ? cached.keys() : [];
  if (oldest !== undefined) cached.delete(oldest);
}

/**
 * A number that is kept for a user, at most 60 s old; 0 where none is set.
 *
 * @throws RollcallError `unavailable` when it cannot be read, or is no number
 */
async function readNumber(key: string, kv: KVNamespace): Promise<number> {
  const known = cached.get(key);
  if (known && Date.now() - known.readAtMs < MEMORY_CACHE_MS) return known.value;

  let text: string | null;
  try {
    text = await kv.get(key, { cacheTtl: KV_CACHE_SECONDS });
  } catch (error) {
    log("claims_version_unavailable", { error });
    throw new RollcallError("unavailable", "The claims version cannot be read");
  }
  const value = text === null ? 0 : Number(text);
  if (!Number.isFinite(value) || text?.trim() === "") {
    log("claims_version_malformed");
    throw new RollcallError("unavailable", "The claims version is malformed");
  }
  remember(key, value);
  return value;
}

/**
 * The lowest version of a user's claim `workspaces` that is valid, at most 60 s old; 0 where none is set.
 *
 * @param kv `workspace-claims-version:<userId>` → the version
 * @throws RollcallError `unavailable` when it cannot be read, or is no number
 */
export function requiredClaimsVersion(userId: string, kv: KVNamespace): Promise<number> {
  return readNumber(VERSION_PREFIX + userId, kv);
}

/** The variables and bindings by which tokens are revoked. */
export interface RevocationEnv {
  /** `on`: users' actors know where their users are, and tokens can be revoked. */
  DIRECTORY?: string;
  /** Holds `revoked:<userId>` as well. */
  WORKSPACE_CLAIMS_VERSION?: KVNamespace;
}

/** Whether users' actors know where their users are. */
export function isDirectoryOn({ DIRECTORY }: { DIRECTORY?: string }): boolean {
  return DIRECTORY === "on";
}

/** Whether a revocation up to the second `floorS` covers a token. A token without an issue time is covered. */
export function isRevoked(issuedAtS: unknown, floorS: number | undefined): boolean {
  if (floorS === undefined || floorS <= 0) return false;
  // A time with a fraction counts as its second.
  return typeof issuedAtS !== "number" || Math.floor(issuedAtS) <= floorS;
}

async function revocationKey(userId: string): Promise<string> {
  const bytes = new TextEncoder().encode(userId);
  if (bytes.byteLength <= KEY_BYTES) return REVOKED_PREFIX + userId;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return `${REVOKED_PREFIX}sha256:${[...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * Refuses a token that was revoked more than 60 s ago. Actors learn of it at once, by themselves.
 *
 * @param issuedAtS the token's `iat`
 * @throws RollcallError `unauthorized`, or `unavailable` when that cannot be read
 */
export async function requireUnrevoked(
  userId: string,
  issuedAtS: unknown,
  env: RevocationEnv,
): Promise<void> {
  const kv = env.WORKSPACE_CLAIMS_VERSION;
  // What is no well-formed text is nobody's id, and no key in KV.
  if (!isDirectoryOn(env) || !kv || !isWellFormed(userId)) return;
  const floorS = await readNumber(await revocationKey(userId), kv);
  if (isRevoked(issuedAtS, floorS)) throw revoked();
}

/** The refusal of a token that was revoked. */
export function revoked(): RollcallError {
  return new RollcallError("unauthorized", "The token was revoked");
}

/**
 * Has all Workers refuse the tokens of a user that were issued up to the second `floorS`, within 60 s.
 *
 * @param lifetimeS the longest lifetime of a user's token: after it, and after a daemon's, nothing is left to refuse; undefined: for ever
 * @throws what KV throws: more than one write to a key in a second, for example
 */
export async function publishRevocation(
  userId: string,
  floorS: number,
  lifetimeS: number | undefined,
  { WORKSPACE_CLAIMS_VERSION: kv }: RevocationEnv,
): Promise<void> {
  if (!kv) return;
  const key = await revocationKey(userId);
  const keptS = lifetimeS && Math.max(lifetimeS, DAEMON_TOKEN_S) + GRACE_S;
  await kv.put(key, `${floorS}`, { ...(keptS && { expirationTtl: keptS }) });
  remember(key, floorS);
}
