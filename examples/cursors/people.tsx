import { type Other, type RoomHandle, useOthers, usePresence } from "rollcall/react";
import { Dots } from "./cursor.tsx";
import type { BoardEvents, Visit } from "./state.ts";

type Shown = Pick<Other, "userId" | "username" | "status" | "device"> & {
  colour: string;
  typing: boolean;
};

/** Who is on the board, beside oneself: a line for each user. */
export function People({ room }: { room: RoomHandle<BoardEvents> }) {
  const { users } = usePresence(room);
  // Their cursors move, and this list does not: it is made of what it shows.
  const keys = useOthers(room, (others) => [...others.values()].map((other) => keyOf(other)));
  const shown = new Map(
    keys.map((key) => JSON.parse(key) as Shown).map((one) => [one.userId, one]),
  );
  const devices = new Map(users.map((user) => [user.userId, user.devices]));
  return (
    <ul className="people" aria-label="Who is here">
      {[...shown.values()].map(({ userId, username, status, device, colour, typing }) => (
        <li key={userId} className="person">
          <span className="face" style={{ backgroundColor: colour }} aria-hidden="true">
            {username.slice(0, 1)}
          </span>
          <span className="name">
            <b>{username}</b>
            <small>
              {device}
              {(devices.get(userId) ?? 1) > 1 && ` and ${(devices.get(userId) ?? 1) - 1} more`}
            </small>
          </span>
          {typing ? <Dots /> : <span className={`status ${status}`}>{status}</span>}
        </li>
      ))}
    </ul>
  );
}

function keyOf({ userId, username, status, device, state }: Other<Visit>): string {
  const colour = state?.colour ?? "#888888";
  const shown: Shown = { userId, username, status, device, colour, typing: state?.typing === true };
  return JSON.stringify(shown);
}
