import { log } from "../../src/log.ts";
import { checkShards } from "../../src/shards/layout.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { keepsChanges, type WebhookEnv } from "./webhooks.ts";

/** The variable that distributes rooms over several actors. */
export interface LargeEnv extends WebhookEnv {
  /** `<room>:<shards>`, with commas: `stadium:16,live-*:8`. The first that fits a room counts. "": none. */
  LARGE_ROOMS?: string;
}

const RULE = /^(?<rooms>[A-Za-z0-9_.:-]{0,63}\*|[A-Za-z0-9_.:-]{1,64}):(?<shards>\d{1,3})$/;

interface Rule {
  rooms: string;
  shards: number;
}

/** By the text of `LARGE_ROOMS`, of which an isolate has one. Undefined: it is malformed. */
const parsed = new Map<string, Rule[] | undefined>();

function parseRules(text: string): Rule[] | undefined {
  try {
    return text
      .split(",")
      .filter((rule) => rule.trim() !== "")
      .map((rule) => {
        const { rooms = "", shards = "" } = RULE.exec(rule.trim())?.groups ?? {};
        return { rooms, shards: checkShards(Number(shards)) };
      });
  } catch {
    log("large_rooms_refused", { reason: "LARGE_ROOMS is a list of <room>:<1 to 256>" });
    return undefined;
  }
}

function fits(room: string, rooms: string): boolean {
  return rooms.endsWith("*") ? room.startsWith(rooms.slice(0, -1)) : room === rooms;
}

/**
 * The number of a room's actors, by `LARGE_ROOMS`.
 *
 * @throws RollcallError `unavailable` where that is malformed
 */
export function shardsOfRoom(room: string, env: LargeEnv): number {
  const { LARGE_ROOMS: text = "" } = env;
  if (text === "") return 1;
  if (!parsed.has(text)) parsed.set(text, parseRules(text));
  const rules = parsed.get(text);
  if (!rules) throw new RollcallError("unavailable", "Not configured");
  return rules.find(({ rooms }) => fits(room, rooms))?.shards ?? 1;
}

/**
 * The number of a room's actors by an option `shards`, checked: changes have one order, so a room that keeps
 * them is one actor.
 *
 * @returns a function that throws RollcallError `unavailable` for several actors of such a room
 */
export function inOneOrder<E>(
  shards: number | ((room: string, env: E) => number),
): (room: string, env: E) => number {
  return (room, env) => {
    const count = typeof shards === "function" ? shards(room, env) : shards;
    if (count > 1 && keepsChanges(room, env as WebhookEnv)) {
      log("large_rooms_refused", { reason: "A room that WEBHOOKS names has several shards" });
      throw new RollcallError("unavailable", "Not configured");
    }
    return count;
  };
}
