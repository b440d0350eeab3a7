import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { clock, hueOf, initials, Lamp, Panel, plural, Switch } from "../parts.tsx";
import { useStore } from "../store.ts";
import type { Api, RosterEntry } from "./api.ts";
import { LiveRoom, type RoomEvent } from "./live-room.ts";
import { Confirm, Fault, type Place, PlaceLink } from "./parts.tsx";
import { PublishPanel } from "./publish.tsx";
import type { StreamState } from "./stream.ts";

const MINUTE_MS = 60_000;
const BLOCKS = {
  "not at all": 0,
  "10 min": 10 * MINUTE_MS,
  "1 h": 60 * MINUTE_MS,
  "1 day": 1_440 * MINUTE_MS,
  "30 days": 30 * 1_440 * MINUTE_MS,
} as const;
type Block = keyof typeof BLOCKS;

/** Users that are drawn at first, and more at each press of the button. */
const DRAWN = 100;
/** Least ms between two announcements of new events. */
const ANNOUNCE_MS = 10_000;

interface RoomProps {
  api: Api;
  room: string;
  heading: RefObject<HTMLHeadingElement | null>;
  go: (to: Place) => void;
}

/** A room: its users, its events as they happen, and a form to publish. */
export function RoomBoard({ api, room, heading, go }: RoomProps) {
  const [live] = useState(() => new LiveRoom(api, room));
  useEffect(() => live.start(), [live]);
  return (
    <div class="board">
      <UsersPanel api={api} room={room} live={live} heading={heading} go={go} />
      <EventsPanel live={live} room={room} />
      <PublishPanel
        wire={`POST …/rooms/${room}/events`}
        idea="Sends an event to every session in the channel, streams such as this page's included. Your user id goes with it."
        nameLabel="Event"
        firstName="notice"
        dataLabel="Data, a JSON object"
        objectsOnly
        withChannel
        send={async ({ name, json, channel }, key) => {
          const data = json === undefined ? {} : { data: json as object };
          const message = { event: name, ...data, ...(channel !== "" && { channel }) };
          const { recipients, cursor } = await api.publishToRoom(room, message, key);
          return `Sent to ${plural(recipients, "session")}. Cursor ${cursor}`;
        }}
      />
    </div>
  );
}

function UsersPanel({ api, room, live, heading, go }: RoomProps & { live: LiveRoom }) {
  const { users, totals, hasMore } = useStore(live.list);
  const fault = useStore(live.fault);
  const stream = useStore(live.stream);
  const [drawn, setDrawn] = useState(DRAWN);
  const [kicking, setKicking] = useState<RosterEntry<string> | null>(null);
  const [outcome, setOutcome] = useState("");
  const isCut = users.length > drawn || hasMore;

  function more() {
    if (users.length < drawn + DRAWN && hasMore) void live.readMore();
    setDrawn(drawn + DRAWN);
  }

  return (
    <Panel
      name="users"
      title={room}
      wire={`GET …/rooms/${room}`}
      idea="The users in this room. Each is as many devices as the user has connections."
      heading={heading}
    >
      <div class="bar">
        <p class="figure" data-testid="totals">
          <b>{totals?.totalUsers ?? "–"}</b> {totals?.totalUsers === 1 ? "user" : "users"} on{" "}
          <b>{totals?.totalConnections ?? "–"}</b>{" "}
          {totals?.totalConnections === 1 ? "connection" : "connections"}
        </p>
        {stream.kind === "refused" && (
          <button type="button" onClick={() => void live.reload()}>
            Read again
          </button>
        )}
      </div>
      <p class="outcome" role="status">
        {outcome}
      </p>
      {fault !== null && <Fault error={fault} />}
      {totals?.totalUsers === 0 && <p class="empty">Nobody is in this room now.</p>}
      <ul class="rows" aria-label="Users in the room">
        {users.slice(0, drawn).map((user) => (
          <UserRow
            key={user.userId}
            user={user}
            go={go}
            kick={() => setKicking(user)}
            fallback={heading}
          />
        ))}
      </ul>
      {isCut && (
        <div class="actions">
          <button type="button" onClick={more}>
            More users
          </button>
        </div>
      )}
      {kicking && (
        <Kick
          api={api}
          room={room}
          user={kicking}
          fallback={heading}
          onDone={setOutcome}
          onClose={() => setKicking(null)}
        />
      )}
    </Panel>
  );
}

function UserRow(props: {
  user: RosterEntry<string>;
  go: (to: Place) => void;
  kick: () => void;
  fallback: RefObject<HTMLElement | null>;
}) {
  const { user, go, kick, fallback } = props;
  const { userId, username, devices, status, sessions = [] } = user;
  const row = useRef<HTMLLIElement>(null);
  const kinds = sessions.map(({ device }) => device).join(", ");
  // The user may leave while the focus is in this row.
  useLayoutEffect(() => {
    const element = row.current;
    return () => {
      if (element?.contains(document.activeElement)) fallback.current?.focus();
    };
  }, [fallback]);
  return (
    <li class="row" ref={row} data-user={userId} data-status={status}>
      <span class="badge" style={{ "--hue": hueOf(username) }} aria-hidden="true">
        {initials(username)}
      </span>
      <span class="row-name">
        <PlaceLink to={{ kind: "user", id: userId }} go={go}>
          <b>{username}</b>
        </PlaceLink>
        {username !== userId && <code>{userId}</code>}
      </span>
      <span class="row-state">
        <span class="status">{status}</span>, {plural(devices, "device")}
        {kinds !== "" && `: ${kinds}`}
      </span>
      <button type="button" class="danger" onClick={kick}>
        Kick<span class="unseen"> {username}</span>
      </button>
    </li>
  );
}

function Kick(props: {
  api: Api;
  room: string;
  user: RosterEntry<string>;
  fallback: RefObject<HTMLElement | null>;
  onDone: (outcome: string) => void;
  onClose: () => void;
}) {
  const { api, room, user, fallback, onDone, onClose } = props;
  const { userId, username } = user;
  const [block, setBlock] = useState<Block>("not at all");
  return (
    <Confirm
      title={`Kick ${username} from ${room}?`}
      action="Kick"
      fallback={fallback}
      run={() => api.kick(room, userId, BLOCKS[block])}
      onDone={({ sessions }) => {
        const blocked = BLOCKS[block] === 0 ? "" : ` The user cannot return for ${block}.`;
        onDone(`${username} was kicked: ${plural(sessions, "session")} ended.${blocked}`);
      }}
      onClose={onClose}
    >
      <p>All connections of this user to the room close with 4404.</p>
      <Switch<Block>
        legend="Block the user"
        options={Object.keys(BLOCKS) as Block[]}
        value={block}
        onChange={setBlock}
      />
      <p class="quiet">
        {BLOCKS[block] === 0
          ? "The user may join again at once."
          : `The user cannot join this room for ${block}.`}
      </p>
    </Confirm>
  );
}

function EventsPanel({ live, room }: { live: LiveRoom; room: string }) {
  const events = useStore(live.events);
  const isPaused = useStore(live.isPaused);
  const missed = useStore(live.missed);
  const stream = useStore(live.stream);
  return (
    <Panel
      name="events"
      title="Events"
      wire={`GET …/rooms/${room}/stream`}
      idea="What the room sends, as it happens. The last 200 are kept; open one to see its data."
    >
      <div class="bar">
        <StreamLamp state={stream} />
        <button
          type="button"
          class="toggle"
          aria-pressed={isPaused}
          onClick={() => live.pause(!isPaused)}
        >
          {isPaused ? "Paused" : "Pause"}
          {isPaused && missed > 0 && <span class="unread">{missed} new</span>}
        </button>
      </div>
      {stream.kind === "refused" && <Fault error={stream.error} />}
      <Announcement newest={events[0]?.id ?? 0} />
      {/* A busy room would never let a screen reader finish: the announcement gives the number. */}
      <div class="log" role="log" aria-live="off" aria-label="Events of the room">
        {events.length === 0 && <p class="empty">Nothing has happened yet.</p>}
        <ol>
          {events.map((event) => (
            <EventRow key={event.id} event={event} />
          ))}
        </ol>
      </div>
    </Panel>
  );
}

const STREAM_WORDS: Record<StreamState["kind"], { lamp: string; text: string }> = {
  connecting: { lamp: "connecting", text: "Connecting" },
  live: { lamp: "connected", text: "Live" },
  waiting: { lamp: "reconnecting", text: "Interrupted: it comes back by itself" },
  refused: { lamp: "off", text: "Not live" },
};

function StreamLamp({ state }: { state: StreamState }) {
  const { lamp, text } = STREAM_WORDS[state.kind];
  return (
    <p class="stream-state" role="status">
      <Lamp state={lamp} />
      {text}
    </p>
  );
}

/** How many events have arrived, for screen readers, and not too often. */
function Announcement({ newest }: { newest: number }) {
  const [text, setText] = useState("");
  const latest = useRef(newest);
  latest.current = newest;
  useEffect(() => {
    let announced = latest.current;
    const timer = setInterval(() => {
      const count = latest.current - announced;
      announced = latest.current;
      setText(count === 0 ? "" : plural(count, "new event"));
    }, ANNOUNCE_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <p class="unseen" role="status">
      {text}
    </p>
  );
}

function EventRow({ event }: { event: RoomEvent }) {
  const [isOpen, setOpen] = useState(false);
  const { atMs, event: name, channel, data, text } = event;
  return (
    <li class="event">
      <details onToggle={(e) => setOpen(e.currentTarget.open)}>
        <summary>
          <time>{clock(atMs)}</time> <b>{name}</b>
          {channel !== "" && channel !== "default" && <code class="channel">{channel}</code>}{" "}
          <span class="event-text">{text === "" ? <code>{brief(data)}</code> : text}</span>
        </summary>
        {isOpen && (
          // biome-ignore lint/a11y/noNoninteractiveTabindex: long data scrolls, also by the keyboard
          <section class="data" tabIndex={0} aria-label={`Data of ${name}`}>
            <pre>{JSON.stringify(data, null, 2)}</pre>
          </section>
        )}
      </details>
    </li>
  );
}

/** Characters of data that a line shows. */
const BRIEF_LENGTH = 120;

function brief(data: unknown): string {
  const json = JSON.stringify(data) ?? "";
  return json.length > BRIEF_LENGTH ? `${json.slice(0, BRIEF_LENGTH)}…` : json;
}
