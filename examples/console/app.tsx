import type { TargetedSubmitEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Access, accessOf, accessOfDevelopment } from "./access.ts";
import { Devices } from "./devices.ts";
import { DevicesPanel } from "./devices-panel.tsx";
import { Fanout } from "./fanout.ts";
import { FanoutPanel } from "./fanout-panel.tsx";
import { Line, WIRES } from "./line.ts";
import { LinePanel } from "./line-panel.tsx";
import { Moods } from "./moods.ts";
import { MoodsPanel } from "./moods-panel.tsx";
import { Lamp } from "./parts.tsx";
import { Room } from "./room.ts";
import { RoomPanel } from "./room-panel.tsx";
import { useStore } from "./store.ts";
import { ThemeSwitch } from "./theme.tsx";

const NAMES = [
  "Ada",
  "Katherine",
  "Tim",
  "Margaret",
  "Ken",
  "Joan",
  "Linus",
  "Annie",
  "Donald",
  "Mary",
];

/** Everything that one person has open. */
interface Visit {
  access: Access;
  roomName: string;
  line: Line;
  room: Room;
  devices: Devices | null;
  moods: Moods;
  fanout: Fanout;
}

function startVisit(access: Access, roomName: string): Visit {
  const line = new Line();
  const { userUuid } = access;
  return {
    access,
    roomName,
    line,
    room: new Room(access, roomName, line),
    devices: userUuid === null ? null : new Devices(access, userUuid, line),
    moods: new Moods(line),
    fanout: new Fanout(access, line),
  };
}

function endVisit({ room, devices, moods, fanout }: Visit): void {
  for (const part of [room, devices, moods, fanout]) part?.close();
}

function addressOf(name: string, roomName: string): string {
  return `/?${new URLSearchParams({ name, room: roomName })}`;
}

function otherThan(name: string): string {
  return NAMES.find((known) => known !== name) ?? "Ada";
}

function anyName(): string {
  return NAMES[Math.floor(Math.random() * NAMES.length)] ?? "Ada";
}

export function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function Rail({ visit }: { visit: Visit | null }) {
  return (
    <header class="rail">
      <h1>Rollcall</h1>
      <p>Who is here, on which device, in which mood.</p>
      {visit && <Whole line={visit.line} />}
      <ThemeSwitch />
    </header>
  );
}

/** All wires at a glance. What they mean stands in the panel of the line. */
function Whole({ line }: { line: Line }) {
  const states = useStore(line.states);
  return (
    <span class="lamps" aria-hidden="true">
      {WIRES.map((wire) => states[wire] && <Lamp key={wire} state={states[wire]} />)}
    </span>
  );
}

function Identity(props: {
  visit: Visit;
  mayRename: boolean;
  go: (name: string, roomName: string) => void;
}) {
  const { visit, mayRename, go } = props;
  const self = visit.access.name;
  const [name, setName] = useState(self);
  const [roomName, setRoomName] = useState(visit.roomName);

  function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    go(name.trim(), roomName);
  }

  return (
    <form class="identity" aria-label="Who you are" onSubmit={submit}>
      <label>
        <span>You are</span>
        <input
          required
          maxLength={64}
          pattern=".*\S.*"
          readOnly={!mayRename}
          autocomplete="off"
          value={name}
          onInput={(e) => setName(e.currentTarget.value)}
        />
      </label>
      <label>
        <span>in the room</span>
        <input
          required
          maxLength={64}
          pattern="[A-Za-z0-9_.:\-]+"
          title="Letters, digits and _ . : -"
          autocomplete="off"
          value={roomName}
          onInput={(e) => setRoomName(e.currentTarget.value)}
        />
      </label>
      <button type="submit" class="primary">
        Join
      </button>
      {mayRename && (
        <a class="tab" href={addressOf(self, visit.roomName)} target="_blank" rel="noopener">
          Open another device of yours
        </a>
      )}
    </form>
  );
}

/** Where the server hands out no tokens, people bring theirs. */
function Door({ enter }: { enter: (access: Access, roomName: string) => void }) {
  const [jwt, setJwt] = useState("");
  const [mintToken, setMintToken] = useState("");
  const [userUuid, setUserUuid] = useState("");
  const [fault, setFault] = useState<string | null>(null);

  function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    try {
      const tokens = {
        jwt: jwt.trim(),
        mintToken: mintToken.trim(),
        userUuid: userUuid.trim(),
      };
      enter(accessOf(tokens), "lobby");
    } catch (error) {
      setFault(message(error));
    }
  }

  return (
    <form class="door" aria-label="Your tokens" onSubmit={submit}>
      <h2>Bring your own tokens</h2>
      <p>This is a deployment. What you paste stays in this page's memory and is gone with it.</p>
      <label>
        <span>JWT, with a userId, signed with JWT_SECRET</span>
        <input
          required
          autocomplete="off"
          value={jwt}
          onInput={(e) => setJwt(e.currentTarget.value)}
        />
      </label>
      <label>
        <span>Minting token, to play daemons (may be left out)</span>
        <input
          type="password"
          autocomplete="off"
          value={mintToken}
          onInput={(e) => setMintToken(e.currentTarget.value)}
        />
      </label>
      <label>
        <span>user_id whose devices to watch, a UUID (may be left out)</span>
        <input
          autocomplete="off"
          pattern="[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
          value={userUuid}
          onInput={(e) => setUserUuid(e.currentTarget.value)}
        />
      </label>
      {fault !== null && (
        <p class="fault" role="alert">
          {fault}
        </p>
      )}
      <div class="actions">
        <button type="submit" class="primary">
          Enter
        </button>
      </div>
    </form>
  );
}

/** The visit that the address asks for; nobody in particular where it names nobody. */
export async function firstVisit(): Promise<Visit> {
  const query = new URLSearchParams(location.search);
  const access = await accessOfDevelopment(query.get("name")?.trim() || anyName());
  const roomName = query.get("room") || "lobby";
  history.replaceState(null, "", addressOf(access.name, roomName));
  return startVisit(access, roomName);
}

/**
 * @param first who comes in at once; null where the server hands out no tokens, so that people bring
 *   their own
 */
export function App({ first }: { first: Visit | null }) {
  const isDevelopment = first !== null;
  const [visit, setVisit] = useState(first);
  const [fault, setFault] = useState<string | null>(null);

  function enter(access: Access, roomName: string) {
    if (visit) endVisit(visit);
    setVisit(startVisit(access, roomName));
  }

  async function go(name: string, roomName: string) {
    try {
      if (isDevelopment) {
        enter(await accessOfDevelopment(name), roomName);
        history.replaceState(null, "", addressOf(name, roomName));
      } else if (visit) enter(visit.access, roomName);
      setFault(null);
    } catch (error) {
      setFault(message(error));
    }
  }

  useEffect(() => {
    const leave = () => visit?.moods.farewell();
    addEventListener("pagehide", leave);
    return () => removeEventListener("pagehide", leave);
  }, [visit]);

  return (
    <>
      <Rail visit={visit} />
      <main>
        {fault !== null && (
          <p class="fault" role="alert">
            {fault}
          </p>
        )}
        {!visit && <Door enter={enter} />}
        {visit && (
          <>
            <Identity
              key={`${visit.access.name}\n${visit.roomName}`}
              visit={visit}
              mayRename={isDevelopment}
              go={(name, roomName) => void go(name, roomName)}
            />
            <div class="board" key={`${visit.access.name} ${visit.roomName}`}>
              <RoomPanel
                room={visit.room}
                self={visit.access.name}
                tabAddress={
                  isDevelopment ? addressOf(otherThan(visit.access.name), visit.roomName) : null
                }
              />
              <LinePanel line={visit.line} />
              <DevicesPanel devices={visit.devices} />
              <MoodsPanel moods={visit.moods} />
              <FanoutPanel fanout={visit.fanout} self={visit.access.name} />
            </div>
          </>
        )}
      </main>
    </>
  );
}
