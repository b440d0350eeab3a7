/**
 * `npm run -s token -- --user alice`: prints a token that the Worker accepts, and nothing else.
 *
 * A JWT is signed with JWT_SECRET. A presence token, which reads the devices of one user, and a daemon's,
 * which sends heartbeats of one device, are signed with PRESENCE_DO_TOKEN_SIGNING_KEY; their user is a UUID. Secrets come from the environment, else from `.dev.vars`.
 */
import { randomUUID } from "node:crypto";
import { SignJWT } from "jose";
import { UUID } from "../rooms/devices/device.ts";
import {
  BEAT_SCOPE,
  DAEMON_TTL_MAX_MS,
  DAEMON_TTL_MS,
  mintPresenceToken,
  TOKEN_TTL_MAX_MS,
  TOKEN_TTL_MS,
} from "../rooms/devices/token.ts";
import { readDevVars } from "./dev-vars.ts";
import { UsageError, withOptions } from "./options.ts";

const USAGE = `usage: npm run -s token -- --user ID [options]

  --user ID               who the token is for (required)
  --kind KIND             jwt, presence or daemon; default presence for a user who is a UUID and
                          none of the flags of a JWT, else jwt
  --scope "WORDS"         scopes, such as publish; default presence:read in a presence token
  --ttl SECONDS           lifetime; default 3600; of a presence token 900 (at most 86400), of a
                          daemon's 30 days (at most 366)

of a presence token, and of a daemon's:
  --device ID             the phone or daemon it is for, a UUID; default a new one

of a JWT:
  --username NAME         the name others see
  --workspace ID[:ROLE]   a workspace the user is in; ROLE is owner, admin, member (default)
                          or viewer; may be repeated
  --claims-version N      workspaceClaimsVersion; default 1 where a workspace is given
`;

const ROLES = ["owner", "admin", "member", "viewer"];

function parseNumber(flag: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isSafeInteger(value) || value < least) {
    throw new UsageError(`${flag} takes a whole number from ${least}, not "${text}"`);
  }
  return value;
}

function parseWorkspace(text: string): { id: string; role: string } {
  const colon = text.lastIndexOf(":");
  const id = colon === -1 ? text : text.slice(0, colon);
  const role = colon === -1 ? "member" : text.slice(colon + 1);
  if (id === "" || !ROLES.includes(role)) {
    throw new UsageError(`--workspace takes ID or ID:${ROLES.join("|")}, not "${text}"`);
  }
  return { id, role };
}

const OPTIONS = {
  user: { type: "string" },
  kind: { type: "string" },
  device: { type: "string" },
  username: { type: "string" },
  workspace: { type: "string", multiple: true },
  "claims-version": { type: "string" },
  scope: { type: "string" },
  ttl: { type: "string" },
} as const;

type Flags = Parameters<Parameters<typeof withOptions<typeof OPTIONS, void>>[2]>[0];

function secretOf(name: string): string {
  const secret = process.env[name] ?? readDevVars()[name] ?? "";
  if (secret === "") throw new UsageError(`${name} is empty, in the environment or .dev.vars`);
  return secret;
}

function kindOf(flags: Flags, userId: string): string {
  const isOfJwt = flags.username ?? flags.workspace ?? flags["claims-version"];
  return flags.kind ?? (UUID.test(userId) && isOfJwt === undefined ? "presence" : "jwt");
}

async function mintPresence(flags: Flags, userId: string, isDaemon: boolean): Promise<string> {
  const device = flags.device ?? randomUUID();
  for (const [flag, id] of [
    ["--user", userId],
    ["--device", device],
  ] as const) {
    if (!UUID.test(id)) throw new UsageError(`${flag} takes a lowercase UUID, not "${id}"`);
  }
  const [usualMs, mostMs] = isDaemon
    ? [DAEMON_TTL_MS, DAEMON_TTL_MAX_MS]
    : [TOKEN_TTL_MS, TOKEN_TTL_MAX_MS];
  const ttlMs = parseNumber("--ttl", flags.ttl ?? `${usualMs / 1000}`, 1) * 1000;
  if (ttlMs > mostMs) throw new UsageError(`--ttl is at most ${mostMs / 1000}`);
  const scope = isDaemon ? [BEAT_SCOPE] : flags.scope?.split(/\s+/).filter(Boolean);
  const grant = { user_id: userId, device_id: device, ttlMs, ...(scope && { scope }) };
  return (await mintPresenceToken(grant, secretOf("PRESENCE_DO_TOKEN_SIGNING_KEY"))).token;
}

async function mintJwt(flags: Flags, userId: string): Promise<string> {
  const ttlSeconds = parseNumber("--ttl", flags.ttl ?? "3600", 1);
  const workspaces = flags.workspace?.map(parseWorkspace);
  const claimsVersion =
    flags["claims-version"] === undefined
      ? workspaces && 1
      : parseNumber("--claims-version", flags["claims-version"], 0);

  const now = Math.floor(Date.now() / 1000);
  return new SignJWT({
    userId,
    ...(flags.username !== undefined && { username: flags.username }),
    ...(workspaces && { workspaces }),
    ...(claimsVersion !== undefined && { workspaceClaimsVersion: claimsVersion }),
    ...(flags.scope !== undefined && { scope: flags.scope }),
  })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setSubject(userId)
    .setIssuedAt(now)
    .setExpirationTime(now + ttlSeconds)
    .sign(new TextEncoder().encode(secretOf("JWT_SECRET")));
}

await withOptions(USAGE, OPTIONS, async (flags) => {
  const userId = flags.user?.trim() ?? "";
  if (userId === "") throw new UsageError("--user is missing");
  const kind = kindOf(flags, userId);
  if (!["jwt", "presence", "daemon"].includes(kind)) {
    throw new UsageError(`--kind takes jwt, presence or daemon, not "${kind}"`);
  }
  const token =
    kind === "jwt"
      ? await mintJwt(flags, userId)
      : await mintPresence(flags, userId, kind === "daemon");
  process.stdout.write(`${token}\n`);
});
