import type { JWTPayload } from "jose";
import { bearerToken, equalSecrets } from "../../src/access/bearer.ts";
import { expiryOf, isMember, verifyJwt } from "../../src/access/jwt.ts";
import { isDevelopment, requireSecret } from "../../src/access/secrets.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";

/** Why somebody is kept out of a workspace, in the words of its contract: HTTP status, close code. */
export const REFUSALS = {
  TOKEN_MISSING: { status: 401, close: 4401 },
  TOKEN_INVALID: { status: 401, close: 4401 },
  GRACE_PERIOD_EXPIRED: { status: 401, close: 4401 },
  TOKEN_VERSION_STALE: { status: 401, close: 4401 },
  FORBIDDEN: { status: 403, close: 4403 },
  AUTH_SERVICE_ERROR: { status: 503, close: 1013 },
} as const satisfies Record<string, { status: number; close: number }>;

export type RefusalCode = keyof typeof REFUSALS;

/** A refusal by the membership check. Its message is written for the client. */
export class SyncRefusal extends Error {
  override readonly name = "SyncRefusal";
  readonly code: RefusalCode;

  constructor(code: RefusalCode, details: string) {
    super(details);
    this.code = code;
  }

  get closeCode(): number {
    return REFUSALS[this.code].close;
  }

  toResponse(): Response {
    return Response.json(
      { error: this.code, details: this.message },
      { status: REFUSALS[this.code].status },
    );
  }
}

/** What the check needs of the Worker's bindings. */
export interface MembershipEnv {
  ENVIRONMENT?: string;
  /** `true` turns the check on in development too. */
  REQUIRE_AUTH?: string;
  /** For how long an expired token still syncs, in seconds. Default 86 400. */
  GRACE_PERIOD_SECONDS?: string;
  /** `workspace-claims-version:<userId>` → the lowest version of that user's claims that counts. */
  WORKSPACE_CLAIMS_VERSION: KVNamespace;
}

/** Who syncs a workspace, as it is kept with the socket: enough to look again, and no secret. */
export interface Member {
  storeId: string;
  userId: string;
  /** Of the token's claims. Absent for a trusted server and for the user of development. */
  claimsVersion?: number;
  /** When token and grace are both over, in ms since the epoch. */
  admittedUntilMs?: number;
}

const STORE_ID_LENGTH = 128;
/** A URL of a Worker has at most 16 KB; what is longer came another way. */
const PAYLOAD_LENGTH = 16_384;
const GRACE_PERIOD_SECONDS = 86_400;
/** A claim of this size makes for headers and URLs that proxies refuse. */
const LARGE_CLAIM_BYTES = 3000;
const VERSION_PREFIX = "workspace-claims-version:";

/** The two together are the 60 s after which a raised version counts everywhere. */
const VERSION_KV_CACHE_SECONDS = 30;
const VERSION_MEMORY_CACHE_MS = 30_000;
/** Users whose version an isolate remembers. */
const VERSIONS_KEPT = 10_000;

interface KnownVersion {
  version: number;
  readAtMs: number;
}
/** Of this isolate, by user. */
const knownVersions = new Map<string, KnownVersion>();

/** The lowest version of a user's claims that counts, at most 60 s old; 0 where none is set. */
async function requiredVersion(userId: string, kv: KVNamespace): Promise<number> {
  const cached = knownVersions.get(userId);
  const now = Date.now();
  if (cached && now - cached.readAtMs < VERSION_MEMORY_CACHE_MS) return cached.version;

  let text: string | null;
  try {
    text = await kv.get(VERSION_PREFIX + userId, { cacheTtl: VERSION_KV_CACHE_SECONDS });
  } catch (error) {
    log("claims_version_unavailable", { error });
    throw new SyncRefusal("AUTH_SERVICE_ERROR", "The claims version cannot be read");
  }
  const version = text === null ? 0 : Number(text);
  if (!Number.isFinite(version) || text?.trim() === "") {
    log("claims_version_malformed");
    throw new SyncRefusal("AUTH_SERVICE_ERROR", "The claims version is malformed");
  }
  knownVersions.delete(userId);
  knownVersions.set(userId, { version, readAtMs: now });
  const [oldest] = knownVersions.size > VERSIONS_KEPT ? knownVersions.keys() : [];
  if (oldest !== undefined) knownVersions.delete(oldest);
  return version;
}

/** `payload` of a sync URL, as LiveStore's clients write it: JSON, twice URL-encoded. */
function parsePayload(url: URL): Record<string, unknown> {
  const text = url.searchParams.get("payload");
  if (text === null || text.length > PAYLOAD_LENGTH) return {};
  try {
    const value: unknown = JSON.parse(decodeURIComponent(text));
    return typeof value === "object" && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function isAuthRequired(env: MembershipEnv): boolean {
  return !isDevelopment(env) || !["", "false", "0", undefined].includes(env.REQUIRE_AUTH);
}

function gracePeriodSeconds(env: MembershipEnv): number {
  const { GRACE_PERIOD_SECONDS: text } = env;
  if (!isText(text)) return GRACE_PERIOD_SECONDS;
  const seconds = Number(text);
  if (seconds >= 0 && Number.isFinite(seconds)) return seconds;
  throw new SyncRefusal("AUTH_SERVICE_ERROR", "GRACE_PERIOD_SECONDS is no number of seconds");
}

function jwtSecret(env: MembershipEnv): string {
  try {
    return requireSecret(env, "JWT_SECRET");
  } catch {
    throw new SyncRefusal("AUTH_SERVICE_ERROR", "JWT_SECRET is not configured");
  }
}

function isServer(given: unknown, env: MembershipEnv): boolean {
  if (!isText(given)) return false;
  let expected: string;
  try {
    expected = requireSecret(env, "SERVER_BYPASS_TOKEN");
  } catch {
    // Unset, empty or an example's value: it lets nobody in.
    return false;
  }
  return equalSecrets(given, expected);
}

async function verifyToken(token: string, env: MembershipEnv): Promise<JWTPayload> {
  try {
    return await verifyJwt(token, jwtSecret(env), gracePeriodSeconds(env));
  } catch (thrown) {
    if (!(thrown instanceof RollcallError)) throw thrown;
    throw thrown.code === "token_expired"
      ? new SyncRefusal("GRACE_PERIOD_EXPIRED", "The token expired too long ago")
      : new SyncRefusal("TOKEN_INVALID", "The token is not valid");
  }
}

function warnOfLargeClaim({ workspaces }: JWTPayload): void {
  const bytes = new TextEncoder().encode(JSON.stringify(workspaces) ?? "").byteLength;
  if (bytes > LARGE_CLAIM_BYTES) log("workspaces_claim_large", { bytes });
}

/**
 * Who may sync the workspace that a sync URL names, `?storeId=…&payload=…`. By the URL alone: what
 * stands in a frame or a body counts for nothing. The Worker asks, so that nobody wakes an actor in
 * vain, and the actor asks again.
 *
 * @throws SyncRefusal by the first row of the contract's table that does not hold
 * @throws RollcallError `bad_request` for a missing or over-long store id
 */
export async function admitMember(url: URL, env: MembershipEnv): Promise<Member> {
  const storeId = url.searchParams.get("storeId") ?? "";
  if (storeId === "" || storeId.length > STORE_ID_LENGTH) {
    throw new RollcallError("bad_request", `storeId has 1 to ${STORE_ID_LENGTH} characters`);
  }
  const { instanceId, authToken, serverBypass } = parsePayload(url);

  if (!isAuthRequired(env)) {
    if (instanceId === storeId) return { storeId, userId: "development" };
    throw new SyncRefusal("FORBIDDEN", "instanceId must equal storeId");
  }

  if (isText(serverBypass) || (serverBypass !== undefined && !isText(authToken))) {
    if (!isServer(serverBypass, env)) {
      throw new SyncRefusal("TOKEN_INVALID", "serverBypass is not valid");
    }
    requireInstance(instanceId, storeId);
    return { storeId, userId: "server" };
  }

  if (!isText(authToken)) throw new SyncRefusal("TOKEN_MISSING", "authToken is missing");
  const claims = await verifyToken(authToken, env);
  const { userId, workspaceClaimsVersion: claimsVersion } = claims;
  if (!isText(userId)) throw new SyncRefusal("TOKEN_INVALID", "The token names no userId");
  requireInstance(instanceId, storeId);
  warnOfLargeClaim(claims);
  if (!isMember(claims, storeId)) {
    throw new SyncRefusal("FORBIDDEN", "Not a member of this workspace");
  }
  if (typeof claimsVersion !== "number") {
    throw new SyncRefusal("TOKEN_INVALID", "workspaceClaimsVersion is not a number");
  }
  const expiresAtMs = expiryOf(claims);
  const member: Member = {
    storeId,
    userId,
    claimsVersion,
    ...(expiresAtMs === undefined
      ? {}
      : { admittedUntilMs: expiresAtMs + gracePeriodSeconds(env) * 1000 }),
  };
  await readmitMember(member, env);
  return member;
}

function requireInstance(instanceId: unknown, storeId: string): void {
  if (!isText(instanceId)) throw new SyncRefusal("TOKEN_MISSING", "instanceId is missing");
  if (instanceId !== storeId) throw new SyncRefusal("FORBIDDEN", "instanceId must equal storeId");
}

/**
 * Looks again at one who was admitted before: is the token still within its grace, are its claims
 * still the newest?
 *
 * @throws SyncRefusal `GRACE_PERIOD_EXPIRED`, `TOKEN_VERSION_STALE`, `AUTH_SERVICE_ERROR`
 */
export async function readmitMember(member: Member, env: MembershipEnv): Promise<void> {
  const { userId, claimsVersion, admittedUntilMs } = member;
  if (admittedUntilMs !== undefined && Date.now() > admittedUntilMs) {
    throw new SyncRefusal("GRACE_PERIOD_EXPIRED", "The token expired too long ago");
  }
  if (claimsVersion === undefined) return;
  if (claimsVersion < (await requiredVersion(userId, env.WORKSPACE_CLAIMS_VERSION))) {
    throw new SyncRefusal("TOKEN_VERSION_STALE", "The workspaces of this user have changed");
  }
}

/**
 * The user of `Authorization: Bearer <JWT>`, also in development: images and completions cost money.
 *
 * @returns null when there is no valid token that names a user
 * @throws RollcallError `unavailable` without `JWT_SECRET`
 */
export async function bearerUser(
  request: Request,
  env: { ENVIRONMENT?: string },
): Promise<string | null> {
  const token = bearerToken(request);
  const secret = requireSecret(env, "JWT_SECRET");
  if (token === null) return null;
  try {
    const { userId } = await verifyJwt(token, secret);
    return isText(userId) ? userId : null;
  } catch (thrown) {
    if (thrown instanceof RollcallError) return null;
    throw thrown;
  }
}
