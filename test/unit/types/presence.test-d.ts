/** For tsc, never run: what clients and hooks of a presence room know of a user. */
import type { VeraniClient } from "../../../client/client.ts";
import {
  type PresenceEvents,
  useOthers,
  usePresence,
  useRoom,
  useStatus,
} from "../../../client/react.ts";

interface State {
  cursor: [number, number];
}
interface User {
  colour: string;
}
type BoardEvents = PresenceEvents<"free" | "on call", State, User>;
declare const client: VeraniClient<BoardEvents>;

client.roster.get("u")?.user?.colour satisfies string | undefined;
client.roster.get("u")?.status satisfies "free" | "on call" | undefined;
// @ts-expect-error no such field of a user
client.roster.get("u")?.user?.color;
client.others.get("s")?.user?.colour satisfies string | undefined;
client.others.get("s")?.status satisfies "free" | "on call" | undefined;
// @ts-expect-error no such field of a user
client.others.get("s")?.user?.color;

export function Board() {
  const room = useRoom<BoardEvents>("/board");
  const { users } = usePresence(room);
  users[0]?.user?.colour satisfies string | undefined;
  users[0]?.sessions?.[0]?.state?.cursor satisfies [number, number] | undefined;
  // @ts-expect-error no such field of a user
  users[0]?.user?.color;
  const others = useOthers(room);
  others[0]?.user?.colour satisfies string | undefined;
  // @ts-expect-error no such field of a user
  others[0]?.user?.color;
  const [status, setStatus] = useStatus(room, "u");
  status satisfies "free" | "on call";
  // @ts-expect-error no status of this room
  setStatus("busy");
}

// Without an event map: any user, and the service's statuses.
declare const untyped: VeraniClient;
untyped.roster.get("u")?.user?.anything;
untyped.roster.get("u")?.status satisfies "online" | "away" | "busy" | undefined;
