import { memo, useEffect, useState } from "react";
import { type RoomHandle, useOthers } from "rollcall/react";
import type { BoardEvents, Visit } from "./state.ts";

/** One other's cursor. It renders again only when that connection has changed. */
export const Cursor = memo(function Cursor({
  room,
  session,
}: {
  room: RoomHandle<BoardEvents>;
  session: string;
}) {
  const other = useOthers(room, (others) => others.get(session));
  const { colour, cursor, says, typing, cheer } = other?.state ?? {};
  const [x, y] = cursor ?? [0, 0];
  return (
    <>
      {cursor && (
        <div className="cursor" style={{ translate: `${x * 100}cqw ${y * 100}cqh`, color: colour }}>
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <path d="M3 2l17 9.2-7.4 1.9L9.4 21z" />
          </svg>
          <div className="label" style={{ backgroundColor: colour }}>
            <b>{other?.username}</b>
            {says ? <span>{says}</span> : null}
            {typing && !says ? <Dots /> : null}
          </div>
        </div>
      )}
      <Cheers cheer={cheer} />
    </>
  );
});

export function Dots() {
  return (
    <span className="dots" role="img" aria-label="types">
      <i />
      <i />
      <i />
    </span>
  );
}

const CHEER_MS = 1_600;

/** The reactions of one visitor, each of which flies up and is gone. */
export function Cheers({ cheer }: { cheer: Visit["cheer"] }) {
  const [first] = useState(cheer?.n);
  const [flying, setFlying] = useState<NonNullable<Visit["cheer"]>[]>([]);
  const n = cheer?.n;
  // Only the number tells a new one: the rest comes again with each state.
  // biome-ignore lint/correctness/useExhaustiveDependencies: as said
  useEffect(() => {
    if (!cheer || n === first) return;
    setFlying((before) => [...before.slice(-20), cheer]);
    const timer = setTimeout(() => {
      setFlying((before) => before.filter((one) => one.n !== n));
    }, CHEER_MS);
    return () => clearTimeout(timer);
  }, [n]);
  return flying.map(({ n: key, emoji, at: [x, y] }) => (
    <span
      key={key}
      className="cheer"
      aria-hidden="true"
      style={{ left: `${x * 100}%`, top: `${y * 100}%`, rotate: `${(key % 5) * 14 - 28}deg` }}
    >
      {emoji}
    </span>
  ));
}
