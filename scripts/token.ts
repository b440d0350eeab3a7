/**
 * `npm run -s token -- --user alice`: a JWT as the Worker accepts it, on stdout and nothing else.
 * Signed with JWT_SECRET of the environment, else of `.dev.vars`.
 */
import { parseArgs } from "node:util";
import { SignJWT } from "jose";
import { readDevVars } from "./dev-vars.ts";

const USAGE = `usage: npm run -s token -- --user ID [options]

  --user ID               who the token is for (required)
  --username NAME         the name others see
  --workspace ID[:ROLE]   a workspace the user is in; ROLE is owner, admin or member (default);
                          may be repeated
  --claims-version N      workspaceClaimsVersion; default 1 where a workspace is given
  --scope "WORDS"         scopes, such as publish
  --ttl SECONDS           lifetime, default 3600
`;

const ROLES = ["owner", "admin", "member"];

class UsageError extends Error {}

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

function parseFlags() {
  try {
    return parseArgs({
      options: {
        user: { type: "string" },
        username: { type: "string" },
        workspace: { type: "string", multiple: true },
        "claims-version": { type: "string" },
        scope: { type: "string" },
        ttl: { type: "string", default: "3600" },
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

async function main(): Promise<void> {
  const flags = parseFlags();
  if (flags.help) {
    process.stdout.write(USAGE);
    return;
  }
  const userId = flags.user?.trim() ?? "";
  if (userId === "") throw new UsageError("--user is missing");
  const ttlSeconds = parseNumber("--ttl", flags.ttl, 1);
  const workspaces = flags.workspace?.map(parseWorkspace);
  const claimsVersion =
    flags["claims-version"] === undefined
      ? workspaces && 1
      : parseNumber("--claims-version", flags["claims-version"], 0);

  const secret = process.env.JWT_SECRET ?? readDevVars().JWT_SECRET ?? "";
  if (secret === "") throw new UsageError("JWT_SECRET is empty, in the environment or .dev.vars");

  const now = Math.floor(Date.now() / 1000);
  const token = await new SignJWT({
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
    .sign(new TextEncoder().encode(secret));
  process.stdout.write(`${token}\n`);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`${error.message}\n\n${USAGE}`);
  process.exitCode = 2;
}
