import { type FormEvent, type PointerEvent, useEffect, useRef, useState } from "react";
import {
  type Status,
  useCount,
  useMyState,
  useOthers,
  useRoom,
  useStatus,
  useTyping,
} from "rollcall/react";
import { Cheers, Cursor } from "./cursor.tsx";
import { logIn } from "./login.ts";
import { People } from "./people.tsx";
import { type BoardEvents, EMOJI, readSelf, type Self, storeSelf, type Visit } from "./state.ts";

/** How long a sent text stands beside the cursor, in ms. */
const SAID_MS = 6_000;
const STATUSES: Status[] = ["online", "away", "busy"];

export function App() {
  const [self, setSelf] = useState(readSelf);
  const rename = (name: string): void => {
    const renamed = { ...self, name };
    storeSelf(renamed);
    setSelf(renamed);
  };
  // Another name is another user, with a connection of its own.
  return <Board key={self.name} self={self} onRename={rename} />;
}

interface BoardProps {
  self: Self;
  onRename(name: string): void;
}

function Board({ self, onRename }: BoardProps) {
  const place = new URLSearchParams(location.search).get("room") ?? "cursors";
  const room = useRoom<BoardEvents>(`/ws/presence?${new URLSearchParams({ room: place })}`, {
    token: () => logIn(self.name),
  });
  const [mine, setMine] = useMyState(room, { colour: self.colour, cursor: null } as Visit);
  const [status, setStatus] = useStatus(room, self.name);
  const [, type] = useTyping(room);
  const { totalUsers } = useCount(room);
  const sessions = useOthers(room, (others) => [...others.keys()]);
  const [emoji, setEmoji] = useState(EMOJI[0] as string);
  const latest = useRef(mine);
  const quiet = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(quiet.current), []);

  const change = (part: Partial<Visit>): void => {
    const next = { ...(latest.current as Visit), ...part };
    if (part.says === "") delete next.says;
    latest.current = next;
    setMine(next);
  };
  const placeOf = ({ currentTarget, clientX, clientY }: PointerEvent): [number, number] => {
    const { left, top, width, height } = currentTarget.getBoundingClientRect();
    const part = (value: number) => Math.round(Math.min(Math.max(value, 0), 1) * 1e4) / 1e4;
    return [part((clientX - left) / width), part((clientY - top) / height)];
  };
  const say = (text: string): void => {
    clearTimeout(quiet.current);
    change({ says: text });
    type(text !== "");
  };
  const send = (): void => {
    type(false);
    quiet.current = setTimeout(() => change({ says: "" }), SAID_MS);
  };
  const cheer = (event: PointerEvent): void => {
    const n = (latest.current?.cheer?.n ?? 0) + 1;
    const at = placeOf(event);
    change({ cursor: at, cheer: { n, emoji, at } });
  };

  return (
    <div className="app">
      <main
        className="board"
        aria-label="Board"
        onPointerMove={(event) => change({ cursor: placeOf(event) })}
        onPointerLeave={() => change({ cursor: null })}
        onPointerDown={cheer}
      >
        {totalUsers < 2 && (
          <p className="hint">
            Open this page once more, in another window or on a phone. Move, type, click.
          </p>
        )}
        {sessions.map((session) => (
          <Cursor key={session} room={room} session={session} />
        ))}
        <Cheers cheer={mine?.cheer} />
        {mine?.says && mine.cursor && <Own visit={mine} />}
      </main>
      <aside className="side">
        <header>
          <h1>Cursors</h1>
          <p className="lamp" data-state={room.state}>
            {room.state === "connected" ? `${totalUsers} here` : room.state}
          </p>
        </header>
        <Me self={self} status={status} onStatus={setStatus} onRename={onRename} />
        <People room={room} />
      </aside>
      <Say onSay={say} onSend={send} emoji={emoji} onEmoji={setEmoji} />
    </div>
  );
}

/** One's own words, where the others see them. */
function Own({ visit: { cursor, says, colour } }: { visit: Visit }) {
  const [x, y] = cursor ?? [0, 0];
  return (
    <div
      className="own"
      style={{ left: `${x * 100}%`, top: `${y * 100}%`, backgroundColor: colour }}
    >
      {says}
    </div>
  );
}

interface MeProps {
  self: Self;
  status: Status;
  onStatus(status: Status): void;
  onRename(name: string): void;
}

function Me({ self, status, onStatus, onRename }: MeProps) {
  const rename = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const name = String(new FormData(event.currentTarget).get("name")).trim();
    if (name !== "" && name !== self.name) onRename(name);
  };
  return (
    <form className="me" onSubmit={rename}>
      <label>
        <span>You are</span>
        <input
          name="name"
          defaultValue={self.name}
          maxLength={40}
          style={{
            color: `light-dark(${self.colour}, color-mix(in srgb, ${self.colour}, white 45%))`,
          }}
          onBlur={(event) => event.currentTarget.form?.requestSubmit()}
        />
      </label>
      <label>
        <span>and</span>
        <select value={status} onChange={({ target }) => onStatus(target.value as Status)}>
          {STATUSES.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      </label>
    </form>
  );
}

interface SayProps {
  emoji: string;
  onSay(text: string): void;
  onSend(): void;
  onEmoji(emoji: string): void;
}

/** What is typed stands beside one's cursor, letter by letter; the emoji is what a click throws. */
function Say({ emoji, onSay, onSend, onEmoji }: SayProps) {
  const submit = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    event.currentTarget.reset();
    onSend();
  };
  return (
    <form className="say" aria-label="Speak" onSubmit={submit}>
      <input
        name="text"
        aria-label="Say something"
        placeholder="Say something…"
        maxLength={80}
        autoComplete="off"
        onChange={({ target }) => onSay(target.value)}
      />
      <fieldset>
        <legend>A click throws</legend>
        {EMOJI.map((one) => (
          <label key={one}>
            <input
              type="radio"
              name="emoji"
              aria-label={one}
              checked={one === emoji}
              onChange={() => onEmoji(one)}
            />
            <span aria-hidden="true">{one}</span>
          </label>
        ))}
      </fieldset>
    </form>
  );
}
