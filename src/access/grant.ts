import type { JWTPayload } from "jose";
import { log } from "../log.ts";
import { RollcallError } from "../wire/errors.ts";
import { allows, type Cap } from "../wire/grant.ts";
import { isDevelopment } from "./secrets.ts";

/** The variables that say what a token allows which says nothing of it itself. */
export interface GrantEnv {
  ENVIRONMENT?: string;
  /** As the claim `cap`, as JSON. Default: everything in development, {@link DEFAULT_CAP} elsewhere. */
  DEFAULT_CAP?: string;
}

/** What a token without `cap` allows outside development, unless the variable `DEFAULT_CAP` says otherwise. */
export const DEFAULT_CAP: Cap = {
  "room:*": ["join", "state"],
  "user:<self>": ["subscribe", "presence"],
  moods: ["join"],
};
const PUBLISH_CAP: Cap = { "user:*": ["publish"] };

/** Entries of a claim, and of all its lists: it travels with each connection. */
const ENTRIES = 100;
/** Characters of a claim as JSON. */
const CAP_LENGTH = 4_096;

/** @returns undefined when it is none */
function parseCap(value: unknown): Cap | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const entries = Object.entries(value);
  const isValid =
    entries.length <= ENTRIES &&
    JSON.stringify(value).length <= CAP_LENGTH &&
    entries.every(
      ([, list]) => Array.isArray(list) && list.every((word) => typeof word === "string"),
    );
  return isValid ? (value as Cap) : undefined;
}

const defaults = new Map<string, Cap>();

function defaultCap(text: string): Cap {
  let cap = defaults.get(text);
  if (cap) return cap;
  try {
    cap = parseCap(JSON.parse(text));
  } catch {
    // Not JSON: as below.
  }
  if (!cap) log("default_cap_malformed");
  cap ??= {};
  defaults.set(text, cap);
  return cap;
}

function hasPublishScope({ scope }: JWTPayload & { scope?: unknown }): boolean {
  const words: unknown = typeof scope === "string" ? scope.split(/\s+/) : scope;
  return Array.isArray(words) && words.includes("publish");
}

/** What a user may do. */
export class Grant {
  /** Undefined: everything. */
  readonly cap: Cap | undefined;
  readonly #userId: string;

  constructor(userId: string, cap: Cap | undefined) {
    this.#userId = userId;
    this.cap = cap;
  }

  /** Whether it allows an operation on a resource. */
  can(resource: string, operation: string): boolean {
    return this.cap === undefined || allows(this.cap, this.#userId, resource, operation);
  }

  /** Whether it allows an operation on anything. */
  mentions(operation: string): boolean {
    const { cap } = this;
    return cap === undefined || Object.values(cap).some((list) => list.includes(operation));
  }

  /** @throws RollcallError `forbidden` */
  require(resource: string, operation: string): void {
    if (this.can(resource, operation)) return;
    throw new RollcallError("forbidden", `The token does not allow to ${operation} here`);
  }
}

/**
 * What a token allows: its claim `cap`, or the default; and with the scope `publish`, to publish to
 * every user.
 *
 * @param isExplicit only what the token itself says counts
 * @throws RollcallError `unauthorized` for a malformed `cap`
 */
export function grantOf(
  claims: JWTPayload,
  userId: string,
  env: GrantEnv,
  isExplicit = false,
): Grant {
  const { cap: claim } = claims;
  const scoped = hasPublishScope(claims) ? PUBLISH_CAP : {};
  if (claim !== undefined) {
    const cap = parseCap(claim);
    if (!cap) throw new RollcallError("unauthorized", "The token's cap is malformed");
    return new Grant(userId, merged(cap, scoped));
  }
  if (isExplicit) return new Grant(userId, scoped);
  const { DEFAULT_CAP: text } = env;
  if (text) return new Grant(userId, merged(defaultCap(text), scoped));
  return new Grant(userId, isDevelopment(env) ? undefined : merged(DEFAULT_CAP, scoped));
}

function merged(cap: Cap, more: Cap): Cap {
  const result: Record<string, readonly string[]> = { ...cap };
  for (const [resource, operations] of Object.entries(more)) {
    result[resource] = [...(result[resource] ?? []), ...operations];
  }
  return result;
}
