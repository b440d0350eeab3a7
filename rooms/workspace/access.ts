import type { JWTPayload } from "jose";
import { bearerToken, equalSecrets } from "../../src/access/bearer.ts";
import {
  type RevocationEnv,
  requiredClaimsVersion,
  requireUnrevoked,
} from "../../src/access/claims.ts";
import { type GrantEnv, grantOf } from "../../src/access/grant.ts";
import {
  expiryOf,
  requireKeys,
  roleIn,
  type TokenEnv,
  userOf,
  verifyToken,
} from "../../src/access/jwt.ts";
import { findSecret, isDevelopment, requireSecret } from "../../src/access/secrets.ts";
import { errorResponse } from "../../src/http/errors.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { type Member, memberRecord, REFUSALS, type RefusalCode } from "./contract.ts";

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

/** The answer to a request that failed. */
export function refusalResponse(thrown: unknown): Response {
  return thrown instanceof SyncRefusal ? thrown.toResponse() : errorResponse(thrown);
}

/** What the membership check reads of the Worker's bindings and variables. */
export interface MembershipEnv extends TokenEnv, RevocationEnv {
  /** `true` turns the check on in development too. */
  REQUIRE_AUTH?: string;
  /** For how long an expired token still syncs, in seconds. Default 86 400. */
  GRACE_PERIOD_SECONDS?: string;
  /** `workspace-claims-version:<userId>` → the lowest version of that user's claims that is valid. */
  WORKSPACE_CLAIMS_VERSION: KVNamespace;
}

const STORE_ID_LENGTH = 128;
/** The URL of a request to a Worker has at most 16 KB, so a longer payload was never in one. */
const PAYLOAD_LENGTH = 16_384;
const GRACE_PERIOD_SECONDS = 86_400;
/** With a claim of this size, headers and URLs become so long that proxies refuse them. */
const LARGE_CLAIM_BYTES = 3000;
/** `payload` of a sync URL as LiveStore's clients write it: JSON, URL-encoded twice. */
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
  throw new SyncRefusal("AUTH_SERVICE_ERROR", "GRACE_PERIOD_SECONDS is not a number of seconds");
}

/** Whether this is `SERVER_BYPASS_TOKEN`. One that is unset, short or an example's authorizes nobody. */
function isServer(given: unknown, env: MembershipEnv): boolean {
  const expected = findSecret(env, "SERVER_BYPASS_TOKEN");
  return isText(given) && expected !== undefined && equalSecrets(given, expected);
}

/**
 * Refuses a request that is none of a server with the bearer `SERVER_BYPASS_TOKEN`.
 *
 * @throws RollcallError `unauthorized`, or `unavailable` when none is configured
 */
export function requireServer(request: Request, env: { ENVIRONMENT?: string }): void {
  const expected = requireSecret(env, "SERVER_BYPASS_TOKEN");
  if (equalSecrets(bearerToken(request) ?? "", expected)) return;
  throw new RollcallError("unauthorized", "The bearer token is missing or wrong");
}

async function verifyMember(token: string, env: MembershipEnv): Promise<JWTPayload> {
  try {
    return await verifyToken(token, env, gracePeriodSeconds(env));
  } catch (thrown) {
    if (!(thrown instanceof RollcallError)) throw thrown;
    if (thrown.code === "unavailable") {
      throw new SyncRefusal("AUTH_SERVICE_ERROR", thrown.message);
    }
    throw thrown.code === "token_expired"
      ? new SyncRefusal("GRACE_PERIOD_EXPIRED", "The token expired too long ago")
      : new SyncRefusal("TOKEN_INVALID", "The token is not valid");
  }
}

function warnOfLargeClaim({ workspaces }: JWTPayload): void {
  const bytes = new TextEncoder().encode(JSON.stringify(workspaces) ?? "").byteLength;
  if (bytes > LARGE_CLAIM_BYTES) log("workspaces_claim_large", { bytes });
}

/** @throws RollcallError `bad_request` when it is missing or too long */
export function parseStoreId(storeId: string): string {
  if (storeId !== "" && storeId.length <= STORE_ID_LENGTH) return storeId;
  throw new RollcallError("bad_request", `storeId has 1 to ${STORE_ID_LENGTH} characters`);
}

/**
 * The member that may sync the workspace of a sync URL, `?storeId=…&payload=…`, or a server of yours
 * with the bearer `SERVER_BYPASS_TOKEN`. Only the URL and that header are read: frames and bodies cannot
 * change who their sender is. The Worker checks before it wakes an actor, and the actor checks again.
 *
 * @throws SyncRefusal for the first check of the contract's table that fails
 * @throws RollcallError `bad_request` when the store id is missing or too long
 */
export async function authorizeMember(request: Request, env: MembershipEnv): Promise<Member> {
  const url = new URL(request.url);
  const storeId = parseStoreId(url.searchParams.get("storeId") ?? "");
  const { instanceId, authToken, serverBypass } = parsePayload(url);

  if (isServer(bearerToken(request), env)) return { storeId, userId: "server" };
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
  const claims = await verifyMember(authToken, env);
  const { workspaceClaimsVersion: claimsVersion } = claims;
  const userId = userOf(claims);
  if (userId === undefined) throw new SyncRefusal("TOKEN_INVALID", "The token has no userId");
  requireInstance(instanceId, storeId);
  warnOfLargeClaim(claims);
  const role = roleIn(claims, storeId);
  if (role === undefined) {
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
    ...(role === "viewer" && { readsOnly: true }),
    ...(typeof claims.iat === "number" && { issuedAtS: claims.iat }),
    ...(expiresAtMs !== undefined && {
      admittedUntilMs: expiresAtMs + gracePeriodSeconds(env) * 1000,
    }),
  };
  await reauthorizeMember(member, env);
  return member;
}

function requireInstance(instanceId: unknown, storeId: string): void {
  if (!isText(instanceId)) throw new SyncRefusal("TOKEN_MISSING", "instanceId is missing");
  if (instanceId !== storeId) throw new SyncRefusal("FORBIDDEN", "instanceId must equal storeId");
}

/**
 * Checks a member that was authorized before: the token must be within its grace period and not revoked,
 * and its claims must still be the newest.
 *
 * @throws SyncRefusal `GRACE_PERIOD_EXPIRED`, `TOKEN_INVALID`, `TOKEN_VERSION_STALE`, `AUTH_SERVICE_ERROR`
 */
export async function reauthorizeMember(member: Member, env: MembershipEnv): Promise<void> {
  const { userId, claimsVersion, admittedUntilMs } = member;
  if (admittedUntilMs !== undefined && Date.now() > admittedUntilMs) {
    throw new SyncRefusal("GRACE_PERIOD_EXPIRED", "The token expired too long ago");
  }
  if (claimsVersion === undefined) return;
  let required: number;
  try {
    await requireUnrevoked(userId, member.issuedAtS, env);
    required = await requiredClaimsVersion(userId, env.WORKSPACE_CLAIMS_VERSION);
  } catch (thrown) {
    const { code, message } = thrown as RollcallError;
    throw new SyncRefusal(
      code === "unauthorized" ? "TOKEN_INVALID" : "AUTH_SERVICE_ERROR",
      message,
    );
  }
  if (claimsVersion < required) {
    throw new SyncRefusal("TOKEN_VERSION_STALE", "The workspaces of this user have changed");
  }
}

/** A member as it is stored with a socket. */
export function serializeMember(member: Member): string {
  return JSON.stringify(memberRecord.write(member));
}

/** @throws SyncRefusal `TOKEN_INVALID` when no member was stored: its client must connect again */
export function parseMember(text: string): Member {
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch {
    // No JSON is no member.
  }
  const member = memberRecord.read(stored);
  if (member) return member;
  throw new SyncRefusal("TOKEN_INVALID", "The membership of this connection is unreadable");
}

/**
 * The user of `Authorization: Bearer <JWT>`. Required in development too: images and completions
 * cost money.
 *
 * @param operation what its grant must allow, on this resource
 * @returns null when there is no valid token with a userId
 * @throws RollcallError `unavailable` without keys, `forbidden` without the grant
 */
export async function bearerUser(
  request: Request,
  env: TokenEnv & GrantEnv & RevocationEnv,
  resource: string,
  operation: string,
): Promise<string | null> {
  const token = bearerToken(request);
  requireKeys(env);
  if (token === null) return null;
  try {
    const claims = await verifyToken(token, env);
    const userId = userOf(claims);
    if (userId === undefined) return null;
    await requireUnrevoked(userId, claims.iat, env);
    grantOf(claims, userId, env).require(resource, operation);
    return userId;
  } catch (thrown) {
    if (thrown instanceof RollcallError && thrown.status === 401) return null;
    throw thrown;
  }
}
