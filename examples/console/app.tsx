import type { TargetedSubmitEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Access, accessOfDevelopment } from "./access.ts";
import { Devices } from "./devices.ts";
import { DevicesPanel } from "./devices-panel.tsx";
import { Door } from "./door.tsx";
import { Fanout } from "./fanout.ts";
import { FanoutPanel } from "./fanout-panel.tsx";
import { Line, WIRES } from "./line.ts";
import { LinePanel } from "./line-panel.tsx";
import { Moods } from "./moods.ts";
import { MoodsPanel } from "./moods-panel.tsx";
import { Lamp, message } from "./parts.tsx";
import { Rail } from "./rail.tsx";
import { Room } from "./room.ts";
import { RoomPanel } from "./room-panel.tsx";
import { useStore } from "./store.ts";

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

/** The operator's page, with the room open and, in development, under the same name. */
function operatorAddressOf(visit: Visit | null, mayRename: boolean): string {
  if (!visit) return "/admin";
  const name = mayRename ? { name: visit.access.name } : {};
  return `/admin?${new URLSearchParams({ ...name, room: visit.roomName })}`;
}

function otherThan(name: string): string {
  return NAMES.find((known) => known !== name) ?? "Ada";
}

function anyName(): string {
  return NAMES[Math.floor(Math.random() * NAMES.length)] ?? "Ada";
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
      <Rail
        page="console"
        idea="Who is here, on which device, in which mood."
        links={{ console: "/", operator: operatorAddressOf(visit, isDevelopment) }}
      >
        {visit && <Whole line={visit.line} />}
      </Rail>
      <main>
        {fault !== null && (
          <p class="fault" role="alert">
            {fault}
          </p>
        )}
        {!visit && (
          <Door
            forDevices
            idea="This is a deployment. What you paste stays in this page's memory and is gone with it."
            enter={(access) => enter(access, "lobby")}
          />
        )}
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
