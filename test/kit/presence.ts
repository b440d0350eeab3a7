import {
  type PresenceEvents,
  VeraniClient,
  type VeraniClientOptions,
} from "../../client/client.ts";
import type { RosterEntry, RosterSync } from "../../rooms/presence/roster.ts";
import { getJson } from "./http.ts";
import { type Stage, signUser } from "./stage.ts";

/** One device of a user in a presence room: the real client, which keeps a roster. */
export async function joinRoom(
  { wsUrl, jwtSecret }: Stage,
  room: string,
  userId: string,
  options: VeraniClientOptions = {},
): Promise<VeraniClient<PresenceEvents>> {
  const token = await signUser(jwtSecret, userId);
  return new VeraniClient(`${wsUrl}/ws/presence?room=${room}`, { token, ...options });
}

/** The roster of a room as the server has it. */
export async function readRoster({ direct, jwtSecret }: Stage, room: string): Promise<RosterSync> {
  const token = await signUser(jwtSecret, "observer");
  return getJson(`${direct}/api/v1/presence?room=${room}`, token);
}

/** An entry of a roster as one word, for comparisons. */
export function entryText({ userId, devices, status }: Readonly<RosterEntry>): string {
  return `${userId}:${devices}:${status}`;
}
