import { type RosterEntry, STATUSES, type Status } from "../../rooms/presence/roster.ts";
import { clock, hueOf, initials, Panel, plural, Switch } from "./parts.tsx";
import type { Room } from "./room.ts";
import { useStore } from "./store.ts";

/** A row of seats: free ones are drawn while there are fewer people. */
const SEATS = ["first", "second", "third", "fourth", "fifth"];
/** Devices that are drawn one by one. */
const PIPS = 6;

interface PersonProps {
  person: RosterEntry;
  isSelf: boolean;
  note: string | undefined;
}

function Person({ person, isSelf, note }: PersonProps) {
  const { username, devices, status } = person;
  return (
    <li class="person" data-status={status} data-user={person.userId}>
      <span class="avatar" style={{ "--hue": hueOf(username) }} aria-hidden="true">
        {initials(username)}
      </span>
      <span class="who">
        <b>{username}</b>
        {isSelf && <span class="self">you</span>}
      </span>
      {note && <q class="note">{note}</q>}
      <span class="status">{status}</span>
      <span class="devices-count">
        <span class="pips" style={{ "--devices": Math.min(devices, PIPS) }} />
        {plural(devices, "device")}
      </span>
    </li>
  );
}

function News({ room }: { room: Room }) {
  const news = useStore(room.news);
  return (
    <div class="news" role="log" aria-label="Joins and leaves">
      <ol>
        {news.map(({ id, atMs, kind, name, text }) => (
          <li key={id} data-kind={kind}>
            <time>{clock(atMs)}</time>
            <span>
              <b>{name}</b> {text}
            </span>
          </li>
        ))}
      </ol>
    </div>
  );
}

/** @param tabAddress where somebody else may come in; null where names are not ours to give */
export function RoomPanel(props: { room: Room; self: string; tabAddress: string | null }) {
  const { room, self, tabAddress } = props;
  const people = useStore(room.people);
  const status = useStore(room.status);
  const guests = useStore(room.guests);
  const notes = useStore(room.notes);
  const devices = people.reduce((sum, person) => sum + person.devices, 0);
  return (
    <Panel
      name="room"
      title="The room"
      wire="WS /ws/presence"
      idea="Everyone who is here, sent to everyone as it changes. A person is as many devices as they have live sockets."
    >
      <div class="bar">
        <p class="figure" data-testid="totals">
          <b>{people.length}</b> {people.length === 1 ? "person" : "people"} on <b>{devices}</b>{" "}
          {devices === 1 ? "device" : "devices"}
        </p>
        <Switch<Status>
          legend="Your status"
          options={STATUSES}
          value={status}
          onChange={(next) => room.setStatus(next)}
        />
      </div>
      <ul class="people" aria-label="People in the room">
        {people.map((person) => (
          <Person
            key={person.userId}
            person={person}
            isSelf={person.userId === self}
            note={notes.get(person.userId)}
          />
        ))}
        {SEATS.slice(people.length).map((seat, at) => {
          const isOffered = at === 0 && tabAddress !== null;
          return (
            <li key={seat} class="seat" aria-hidden={!isOffered}>
              {isOffered && (
                <a href={tabAddress} target="_blank" rel="noopener">
                  Open a tab to sit here
                </a>
              )}
            </li>
          );
        })}
      </ul>
      <label class="saying">
        <span>This tab's state</span>
        <input
          maxLength={60}
          placeholder="What are you up to? Others see each letter."
          onInput={(event) => room.setNote(event.currentTarget.value.trim())}
        />
      </label>
      {tabAddress !== null && (
        <div class="actions">
          <button type="button" onClick={() => void room.bringGuest()}>
            Bring in a guest
          </button>
          <button type="button" disabled={guests.length === 0} onClick={() => room.sendGuestHome()}>
            Send one home
          </button>
        </div>
      )}
      <News room={room} />
    </Panel>
  );
}
