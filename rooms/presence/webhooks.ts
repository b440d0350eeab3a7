import * as z from "zod/mini";
import { isDevelopment } from "../../src/access/secrets.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { CHANGE_TYPES } from "./contract.ts";

/** The variables that webhooks are read from. */
export interface WebhookEnv {
  ENVIRONMENT?: string;
  /** `[{url, rooms, events?, secret?}]` as JSON. "": none. */
  WEBHOOKS?: string;
  /** `whsec_` and 24 to 64 bytes in base64. */
  WEBHOOK_SECRET?: string;
}

const WEBHOOKS = 20;
const URL_LENGTH = 1_024;
const SECRET_NAME = "WEBHOOK_SECRET";
/** The beginning of the example's secret, which protects nothing. */
const EXAMPLE = "development-only-";
const SECRET_BYTES = { least: 24, most: 64 };
/** Names that never stand for a public address (RFC 6761, RFC 8375, RFC 9476 and usage). */
const PRIVATE_NAMES =
  /(?:^|\.)(?:localhost|localdomain|local|internal|intranet|lan|home|corp|private|home\.arpa|test|invalid|example|onion|alt)$/;

const config = z
  .array(
    z.strictObject({
      /** Absent: the rooms keep their changes for those that ask for them. */
      url: z.optional(
        z.string().check(
          z.maxLength(URL_LENGTH),
          z.refine((url) => URL.canParse(url), "not a URL"),
        ),
      ),
      /** A room's name, or the beginning of names with a `*` behind it. */
      rooms: z.string().check(z.regex(/^[A-Za-z0-9_.:-]{0,64}\*?$/), z.minLength(1)),
      /** Default: all. */
      events: z.optional(z.array(z.enum(CHANGE_TYPES)).check(z.minLength(1))),
      /** The name of the variable that holds its secret. Default `WEBHOOK_SECRET`. */
      secret: z._default(z.string().check(z.regex(/^[A-Z][A-Z0-9_]{0,63}$/)), SECRET_NAME),
    }),
  )
  .check(z.maxLength(WEBHOOKS));

/** Where changes of rooms are sent. */
export interface Webhook {
  url: string;
  rooms: string;
  /** Those that it gets; undefined: all. */
  events: ReadonlySet<string> | undefined;
  /** `whsec_…` */
  secret: string;
}

/** What `WEBHOOKS` says. */
interface Webhooks {
  /** The rooms whose changes are kept. */
  rooms: string[];
  hooks: Webhook[];
}

/** By the kind of deployment and the text of `WEBHOOKS`, of which an isolate has one or two. */
const parsed = new Map<string, Webhooks | string>();

/**
 * The webhooks of a deployment.
 *
 * @throws RollcallError `unavailable` for a malformed configuration; the log names the fault
 */
function readWebhooks(env: WebhookEnv): Webhooks {
  const { WEBHOOKS: text } = env;
  if (!text) return { rooms: [], hooks: [] };
  const key = `${isDevelopment(env)} ${text}`;
  let known = parsed.get(key);
  if (known === undefined) {
    known = parseWebhooks(text, env);
    parsed.set(key, known);
    if (typeof known === "string") log("webhooks_refused", { reason: known });
  }
  if (typeof known !== "string") return known;
  throw new RollcallError("unavailable", "Not configured");
}

/** @returns the fault of a configuration that holds for no room */
function parseWebhooks(text: string, env: WebhookEnv): Webhooks | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return "WEBHOOKS is not JSON";
  }
  const { success, data, error } = config.safeParse(value);
  if (!success) {
    const [issue] = error.issues;
    return `WEBHOOKS: ${issue?.path.join(".")}: ${issue?.message}`;
  }
  const hooks: Webhook[] = [];
  for (const { url, rooms, events, secret: name } of data) {
    if (url === undefined) continue;
    const fault = faultOf(new URL(url), isDevelopment(env));
    if (fault) return `WEBHOOKS: a url ${fault}`;
    const secret = (env as Record<string, unknown>)[name];
    if (!isSecret(secret, isDevelopment(env))) {
      return `${name} must be whsec_ and ${SECRET_BYTES.least} to ${SECRET_BYTES.most} bytes in base64`;
    }
    hooks.push({ url, rooms, events: events && new Set(events), secret });
  }
  return { rooms: data.map(({ rooms }) => rooms), hooks };
}

function isSecret(secret: unknown, isDevelopment: boolean): secret is string {
  if (typeof secret !== "string" || !secret.startsWith("whsec_")) return false;
  try {
    const bytes = atob(secret.slice("whsec_".length));
    const { least, most } = SECRET_BYTES;
    if (bytes.length < least || bytes.length > most) return false;
    return isDevelopment || !bytes.startsWith(EXAMPLE);
  } catch {
    return false;
  }
}

/** Why nothing may be sent to a url; undefined: it may. */
function faultOf(url: URL, isDevelopment: boolean): string | undefined {
  if (url.username !== "" || url.password !== "") return "must not hold a password";
  if (isDevelopment) return /^https?:$/.test(url.protocol) ? undefined : "must be http or https";
  if (url.protocol !== "https:") return "must be https";
  const host = url.hostname.toLowerCase().replace(/\.$/, "");
  // The parser writes every form of an IPv4 address with four numbers, and IPv6 in brackets.
  const isAddress = /^[\d.]+$/.test(host) || host.startsWith("[");
  if (isAddress || !host.includes(".") || PRIVATE_NAMES.test(host))
    return "must have a public name";
  return undefined;
}

function selects(pattern: string, room: string): boolean {
  return pattern.endsWith("*") ? room.startsWith(pattern.slice(0, -1)) : room === pattern;
}

/** Whether a room keeps its changes. @throws as {@link webhooksOf} */
export function keepsChanges(room: string, env: WebhookEnv): boolean {
  return readWebhooks(env).rooms.some((pattern) => selects(pattern, room));
}

/**
 * The webhooks that a room's changes are sent to.
 *
 * @throws RollcallError `unavailable` for a malformed configuration, so that no change is missed
 */
export function webhooksOf(room: string, env: WebhookEnv): Webhook[] {
  const hooks = readWebhooks(env).hooks.filter(({ rooms }) => selects(rooms, room));
  // Of two with the same url the first counts.
  return hooks.filter(({ url }, i) => hooks.findIndex((other) => other.url === url) === i);
}
