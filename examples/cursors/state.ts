import type { PresenceEvents, Status } from "rollcall/react";

/** What a visitor says of itself: the state of its connection. Places are parts of the board, 0 to 1. */
export interface Visit {
  colour: string;
  cursor: [x: number, y: number] | null;
  /** What stands beside the cursor. */
  says?: string;
  typing?: boolean;
  /** Its last reaction; `n` counts them. */
  cheer?: { n: number; emoji: string; at: [x: number, y: number] };
}

export type BoardEvents = PresenceEvents<Status, Visit>;

export const EMOJI = ["🎉", "👏", "❤️", "🔥", "👀"];

const COLOURS = [
  "#6c4cf1",
  "#e0457b",
  "#0f8a5f",
  "#d9730d",
  "#1f77d0",
  "#a63fbf",
  "#b8860b",
  "#128a9c",
];
const ADJECTIVES = ["Brave", "Calm", "Curious", "Gentle", "Lucky", "Merry", "Quick", "Witty"];
const ANIMALS = ["Badger", "Falcon", "Fox", "Heron", "Lynx", "Otter", "Panda", "Seal"];

function pick<T>(list: readonly T[]): T {
  return list[Math.floor(Math.random() * list.length)] as T;
}

export interface Self {
  name: string;
  colour: string;
}

const KEY = "cursors:self";

/** Who this tab is: it stays so when the page is loaded again. */
export function readSelf(): Self {
  const stored = sessionStorage.getItem(KEY);
  if (stored) return JSON.parse(stored) as Self;
  const number = Math.floor(Math.random() * 90) + 10;
  const self = {
    name: `${pick(ADJECTIVES)} ${pick(ANIMALS)} ${number}`,
    colour: pick(COLOURS),
  };
  storeSelf(self);
  return self;
}

export function storeSelf(self: Self): void {
  sessionStorage.setItem(KEY, JSON.stringify(self));
}
