import { setTimeout as pause } from "node:timers/promises";
import type { PresenceEvents, VeraniClient } from "../../client/client.ts";
import { STATUSES } from "../../rooms/presence/roster.ts";

const NAMES = (
  "Ada Aiko Amir Anouk Aron Bea Boris Carla Chidi Clara Dagny Dario Dev Edda Elias Emre Esra " +
  "Farid Finn Freya Gita Goran Hana Hugo Ida Igor Imani Ines Ivo Jana Jonas Juno Kaito Karim " +
  "Kofi Lara Leif Lena Luca Maja Mateo Mila Nadia Nils Noor Olga Omar Pia Priya Quinn Rafa " +
  "Rania Rosa Sami Selma Sven Tariq Tilda Uma Viktor Wanda Xenia Yara Yusuf Zoe"
).split(" ");

/** Connects one device of the user `name`. */
export type Join = (name: string) => VeraniClient<PresenceEvents>;

const between = (min: number, max: number): number => min + Math.random() * (max - min);
const chance = (share: number): boolean => Math.random() < share;

/** `size` people who come and go until `signal` aborts; then all their devices leave. */
export function startCrowd(size: number, join: Join, signal: AbortSignal): void {
  for (let n = 0; n < size; n++) {
    const round = Math.floor(n / NAMES.length);
    const name = `${NAMES[n % NAMES.length]}${round === 0 ? "" : round + 1}`;
    live(name, join, signal).catch((error) => {
      if (!signal.aborted) throw error;
    });
  }
}

async function live(name: string, join: Join, signal: AbortSignal): Promise<void> {
  const wait = (minMs: number, maxMs: number) =>
    pause(between(minMs, maxMs), undefined, { signal });
  for (;;) {
    await wait(0, 6_000);
    const laptop = join(name);
    try {
      while (chance(0.8)) {
        await wait(1_000, 8_000);
        if (chance(0.3)) await visit(join(name), () => wait(2_000, 8_000));
        else laptop.emit("presence.status", { status: pick(STATUSES) });
      }
    } finally {
      laptop.close();
    }
    await wait(1_000, 6_000);
  }
}

/** A second device, for a while. */
async function visit(
  phone: VeraniClient<PresenceEvents>,
  wait: () => Promise<void>,
): Promise<void> {
  try {
    await wait();
  } finally {
    phone.close();
  }
}

function pick<T>(choices: readonly T[]): T {
  return choices[Math.floor(Math.random() * choices.length)] as T;
}
