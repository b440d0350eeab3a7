import type { RefObject } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Lamp, Panel, plural } from "../parts.tsx";
import type { Api, UserRecord } from "./api.ts";
import { Confirm, Fault, moment, type Place, PlaceLink } from "./parts.tsx";
import { PublishPanel } from "./publish.tsx";

/** The record is read again after so many ms, while the page is visible. */
const REFRESH_MS = 10_000;

interface UserProps {
  api: Api;
  userId: string;
  heading: RefObject<HTMLHeadingElement | null>;
  go: (to: Place) => void;
}

/** Reads a user now, and again and again. */
function useUser(api: Api, userId: string) {
  const [user, setUser] = useState<UserRecord | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [readAtMs, setReadAtMs] = useState(0);
  const ended = useRef(new AbortController());

  const read = useCallback(async () => {
    const { signal } = ended.current;
    try {
      const record = await api.readUser(userId, signal);
      if (signal.aborted) return;
      setUser(record);
      setReadAtMs(Date.now());
      setError(null);
    } catch (thrown) {
      if (!signal.aborted) setError(thrown);
    }
  }, [api, userId]);

  useEffect(() => {
    ended.current = new AbortController();
    void read();
    return () => ended.current.abort();
  }, [read]);
  useEffect(() => {
    // What was refused once is refused again.
    if (error !== null) return;
    const timer = setInterval(() => document.hidden || void read(), REFRESH_MS);
    return () => clearInterval(timer);
  }, [read, error]);
  return { user, error, readAtMs, read };
}

/** A user: where they are, and what an operator can do. */
export function UserBoard({ api, userId, heading, go }: UserProps) {
  const { user, error, readAtMs, read } = useUser(api, userId);
  return (
    <div class="board">
      <Panel
        name="whereabouts"
        title={userId}
        wire="GET …/users/<id>"
        idea="Where this user is now, over all rooms, and the devices that send heartbeats."
        heading={heading}
      >
        <div class="bar">
          {user ? <Online user={user} /> : <p class="figure">{error === null ? "Reading…" : ""}</p>}
          <button type="button" onClick={() => void read()}>
            Read again
          </button>
        </div>
        {error !== null && <Fault error={error} />}
        {user && (
          <>
            <Rooms user={user} go={go} />
            <Devices user={user} />
            <p class="quiet">As of {moment(readAtMs)}.</p>
          </>
        )}
        <Actions api={api} userId={userId} heading={heading} read={read} />
      </Panel>
      <PublishPanel
        wire="POST /publish"
        idea="Sends a message to the sockets of this user that have a matching filter, in every tab and app."
        nameLabel="Type"
        firstName="message"
        dataLabel="Payload, JSON"
        objectsOnly={false}
        withChannel={false}
        send={async ({ name, json }, key) => {
          const message = { type: name, ...(json !== undefined && { payload: json }) };
          const { clientCount, results } = await api.publishToUser(userId, message, key);
          if (clientCount === 0) return "No socket of this user has a matching filter.";
          return `Sent to ${plural(clientCount, "socket")}, with ${plural(results.length, "answer")}.`;
        }}
      />
    </div>
  );
}

function Online({ user }: { user: UserRecord }) {
  const { online, lastSeenMs, rooms } = user;
  const where = rooms.length === 0 ? "" : `, in ${plural(rooms.length, "room")}`;
  const seen = lastSeenMs === null ? "" : `, last seen ${moment(lastSeenMs)}`;
  return (
    <p class="stream-state user-state">
      <Lamp state={online ? "connected" : "off"} />
      {online ? `Online${where}` : `Offline${seen}`}
    </p>
  );
}

function Rooms({ user, go }: { user: UserRecord; go: (to: Place) => void }) {
  return (
    <section aria-labelledby="rooms-of-user">
      <h3 id="rooms-of-user">Rooms</h3>
      {user.rooms.length === 0 && <p class="empty">This user is in no room.</p>}
      <ul class="rows">
        {user.rooms.map(({ room, devices, status }) => (
          <li class="row" key={room}>
            <span class="row-name">
              <PlaceLink to={{ kind: "room", id: room }} go={go}>
                <b>{room}</b>
              </PlaceLink>
            </span>
            <span class="row-state">
              <span class="status">{status}</span>, {plural(devices, "device")}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Devices({ user }: { user: UserRecord }) {
  return (
    <section aria-labelledby="devices-of-user">
      <h3 id="devices-of-user">Devices with heartbeats</h3>
      {user.devices.length === 0 && <p class="empty">No device of this user is known.</p>}
      <ul class="rows">
        {user.devices.map(({ device_id, source, status, sent_at_ms }) => (
          <li class="row" key={device_id}>
            <Lamp state={status === "online" ? "connected" : "off"} />
            <span class="row-name">
              <b>{source}</b> <code>{device_id.slice(0, 8)}</code>
            </span>
            <span class="row-state">
              <span class="status">{status}</span>, last heartbeat {moment(sent_at_ms)}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Actions(props: {
  api: Api;
  userId: string;
  heading: RefObject<HTMLHeadingElement | null>;
  read: () => Promise<void>;
}) {
  const { api, userId, heading, read } = props;
  const [asked, setAsked] = useState<"revoke" | "disconnect" | null>(null);
  const [outcome, setOutcome] = useState("");

  function done(text: string) {
    setOutcome(text);
    void read();
  }

  return (
    <section class="powers" aria-label="Actions">
      <div class="actions">
        <button type="button" onClick={() => setAsked("disconnect")}>
          Disconnect
        </button>
        <button type="button" class="danger" onClick={() => setAsked("revoke")}>
          Revoke tokens
        </button>
      </div>
      <p class="outcome" role="status">
        {outcome}
      </p>
      {asked === "disconnect" && (
        <Confirm
          title={`Disconnect ${userId}?`}
          action="Disconnect"
          fallback={heading}
          run={() => api.disconnect(userId)}
          onDone={({ sessions }) => done(`Disconnected: ${plural(sessions, "session")} ended.`)}
          onClose={() => setAsked(null)}
        >
          <p>
            All connections of this user close, in every room. The tokens stay valid: clients may
            connect again at once.
          </p>
        </Confirm>
      )}
      {asked === "revoke" && (
        <Confirm
          title={`Revoke the tokens of ${userId}?`}
          action="Revoke"
          fallback={heading}
          run={() => api.revoke(userId)}
          onDone={({ sessions, issuedBefore }) => {
            const until = moment(issuedBefore * 1_000);
            done(`Tokens issued until ${until} are refused: ${plural(sessions, "session")} ended.`);
          }}
          onClose={() => setAsked(null)}
        >
          <p>
            Tokens that were issued to this user until now stop working. All connections close with
            4401 within a second; other requests are refused within a minute. This cannot be undone.
          </p>
          <p>The user can come back only with a token that is issued after this.</p>
          {userId === api.self && (
            <p class="fault">This is you: you will have to sign in again as well.</p>
          )}
        </Confirm>
      )}
    </section>
  );
}
