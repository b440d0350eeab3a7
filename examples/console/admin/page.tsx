import type { ComponentChildren, RefObject, TargetedSubmitEvent } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Access, accessOfDevelopment } from "../access.ts";
import { Door } from "../door.tsx";
import { Rail } from "../rail.tsx";
import { Api } from "./api.ts";
import { addressOf, Fault, type Place } from "./parts.tsx";
import { RoomBoard } from "./room.tsx";
import { UserBoard } from "./user.tsx";

const NAME_KEY = "rollcall.operator";
const IDEA = "What goes on in a room, where a user is, and what to do about it.";

/** The room or user that the address names. */
function placeOf(address: string): Place {
  const query = new URL(address).searchParams;
  const room = query.get("room");
  if (room) return { kind: "room", id: room };
  const user = query.get("user");
  return user ? { kind: "user", id: user } : null;
}

function titleOf(place: Place): string {
  return place === null ? "Rollcall operator" : `${place.id} · Rollcall operator`;
}

/** Development: the operator that the address names once, or this tab remembers. */
export async function firstOperator(): Promise<Access> {
  const asked = new URLSearchParams(location.search).get("name")?.trim();
  const name = asked || sessionStorage.getItem(NAME_KEY) || "operator";
  history.replaceState(null, "", addressOf(placeOf(location.href)));
  return accessOfName(name);
}

async function accessOfName(name: string): Promise<Access> {
  const access = await accessOfDevelopment(name);
  sessionStorage.setItem(NAME_KEY, name);
  return access;
}

/**
 * The open place, as the address has it: back and forward work.
 *
 * @param heading of the board. It gets the focus of each new one: what was pressed may be gone
 */
function usePlace(heading: RefObject<HTMLElement | null>): [Place, (to: Place) => void] {
  const [place, setPlace] = useState(() => placeOf(location.href));
  const hasMoved = useRef(false);
  useEffect(() => {
    const follow = () => {
      hasMoved.current = true;
      setPlace(placeOf(location.href));
    };
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  }, []);
  useEffect(() => {
    document.title = titleOf(place);
    if (hasMoved.current) heading.current?.focus();
  }, [place, heading]);
  function go(to: Place) {
    if (addressOf(to) !== addressOf(place)) history.pushState(null, "", addressOf(to));
    hasMoved.current = true;
    setPlace(to);
  }
  return [place, go];
}

/** @param first the operator, in development; null elsewhere */
export function AdminPage({ first }: { first: Access | null }) {
  const [byName, setByName] = useState(first);
  const [byToken, setByToken] = useState<Access | null>(null);
  const [wantsDoor, setWantsDoor] = useState(false);
  const heading = useRef<HTMLHeadingElement>(null);
  const [place, go] = usePlace(heading);

  const access = byToken ?? byName;
  const api = useMemo(() => access && new Api(access), [access]);
  const room = place?.kind === "room" ? place.id : "lobby";
  const named = access !== null && access === byName ? { name: access.name } : {};

  const isAtDoor = api === null || wantsDoor;
  const desk = useRef<HTMLDivElement>(null);
  const isLoaded = useRef(false);
  useEffect(() => {
    // The button that was pressed has gone with the door, or with the token.
    const isLost = isLoaded.current && document.activeElement === document.body;
    if (isLost && !isAtDoor && api) desk.current?.querySelector("input")?.focus();
    isLoaded.current = true;
  }, [isAtDoor, api]);

  function enter(next: Access | null) {
    setByToken(next);
    setWantsDoor(false);
  }

  return (
    <>
      <Rail
        page="operator"
        idea={IDEA}
        links={{
          console: `/?${new URLSearchParams({ ...named, room })}`,
          operator: addressOf(place),
        }}
      />
      <main>
        {isAtDoor ? (
          <Door
            idea="Paste a JWT that allows what you want to do. It stays in this page's memory and is gone with it."
            enter={enter}
            {...(api ? { cancel: () => setWantsDoor(false) } : {})}
          />
        ) : (
          <>
            <div class="desk" ref={desk}>
              <Finder key={addressOf(place)} place={place} go={go} />
              {byName && !byToken ? (
                <ByName name={byName.name} enter={setByName}>
                  <button type="button" onClick={() => setWantsDoor(true)}>
                    Use a token
                  </button>
                </ByName>
              ) : (
                <p class="signed-in">
                  <span>
                    <span class="quiet">Signed in as</span> <b>{api.self}</b>
                  </span>
                  <button type="button" onClick={() => enter(null)}>
                    Sign out
                  </button>
                </p>
              )}
            </div>
            <Board key={`${api.id} ${addressOf(place)}`} {...{ api, place, heading, go }} />
          </>
        )}
      </main>
    </>
  );
}

function Board(props: {
  api: Api;
  place: Place;
  heading: RefObject<HTMLHeadingElement | null>;
  go: (to: Place) => void;
}) {
  const { place, ...rest } = props;
  if (place?.kind === "room") return <RoomBoard room={place.id} {...rest} />;
  if (place?.kind === "user") return <UserBoard userId={place.id} {...rest} />;
  return (
    <p class="empty nothing">
      Open a room by its exact name, or find a user by the exact id. Rooms cannot be listed.
    </p>
  );
}

/** In development anyone signs in by a name. */
function ByName(props: {
  name: string;
  enter: (access: Access) => void;
  children?: ComponentChildren;
}) {
  const [name, setName] = useState(props.name);
  const [error, setError] = useState<unknown>(null);

  async function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    try {
      props.enter(await accessOfName(name.trim()));
      setError(null);
    } catch (thrown) {
      setError(thrown);
    }
  }

  return (
    <form class="by-name" aria-label="Who you are" onSubmit={submit}>
      <label>
        <span>You are</span>
        <input
          required
          maxLength={64}
          pattern=".*\S.*"
          autocomplete="off"
          value={name}
          onInput={(e) => setName(e.currentTarget.value)}
        />
      </label>
      <button type="submit">Sign in</button>
      {props.children}
      {error !== null && <Fault error={error} />}
    </form>
  );
}

function Finder({ place, go }: { place: Place; go: (to: Place) => void }) {
  const [room, setRoom] = useState(place?.kind === "room" ? place.id : "");
  const [user, setUser] = useState(place?.kind === "user" ? place.id : "");

  return (
    <search class="finder">
      <form
        aria-label="Open a room"
        onSubmit={(event) => {
          event.preventDefault();
          go({ kind: "room", id: room });
        }}
      >
        <label>
          <span>Room</span>
          <input
            required
            maxLength={64}
            pattern="[A-Za-z0-9_.:\-]+"
            title="Letters, digits and _ . : -"
            placeholder="exact name"
            autocomplete="off"
            autocapitalize="none"
            spellcheck={false}
            value={room}
            onInput={(e) => setRoom(e.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary">
          Open
        </button>
      </form>
      <form
        aria-label="Find a user"
        onSubmit={(event) => {
          event.preventDefault();
          go({ kind: "user", id: user });
        }}
      >
        <label>
          <span>User</span>
          <input
            required
            maxLength={256}
            pattern=".*\S.*"
            placeholder="exact id"
            autocomplete="off"
            autocapitalize="none"
            spellcheck={false}
            value={user}
            onInput={(e) => setUser(e.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary">
          Find
        </button>
      </form>
    </search>
  );
}
