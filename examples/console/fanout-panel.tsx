import type { TargetedSubmitEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Arrival, Fanout, Publication, TypedFilter } from "./fanout.ts";
import { clock, Panel, plural } from "./parts.tsx";
import { useStore } from "./store.ts";

/** `questId=q1 lang=en` as fields. @throws Error for a word that is no pair */
function parseFields(text: string): Record<string, string> {
  const pairs = text.trim() === "" ? [] : text.trim().split(/\s+/);
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at < 1) throw new Error(`“${pair}” is no key=value`);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

function filterText({ type, ...fields }: TypedFilter): string {
  return [type, ...Object.entries(fields).map(([key, value]) => `${key}=${value}`)].join(" ");
}

function PublishForm({ fanout, self }: { fanout: Fanout; self: string }) {
  const [to, setTo] = useState(self);
  const [type, setType] = useState("message");
  const [payload, setPayload] = useState('{ "text": "Hello" }');
  const [fault, setFault] = useState<string | null>(null);

  function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    let parsed: unknown;
    try {
      parsed = payload.trim() === "" ? undefined : JSON.parse(payload);
    } catch {
      setFault("The payload is no JSON.");
      return;
    }
    setFault(null);
    void fanout.publish(to, type, parsed);
  }

  return (
    <form class="stage publish" aria-label="Publish" onSubmit={submit}>
      <h3>Publish</h3>
      <div class="pair">
        <label>
          <span>To user</span>
          <input
            required
            maxLength={256}
            value={to}
            onInput={(e) => setTo(e.currentTarget.value)}
          />
        </label>
        <label>
          <span>Type</span>
          <input
            required
            maxLength={256}
            value={type}
            onInput={(e) => setType(e.currentTarget.value)}
          />
        </label>
      </div>
      <label>
        <span>Payload, JSON</span>
        <textarea
          rows={3}
          spellcheck={false}
          value={payload}
          onInput={(e) => setPayload(e.currentTarget.value)}
        />
      </label>
      {fault !== null && (
        <p class="fault" role="alert">
          {fault}
        </p>
      )}
      <div class="actions">
        <button type="submit" class="primary">
          Publish
        </button>
      </div>
      <Outcomes fanout={fanout} />
    </form>
  );
}

function outcomeText({ outcome }: Publication): string {
  if (!outcome) return "waiting for answers…";
  if ("error" in outcome) return outcome.error;
  const { clientCount, results, ms } = outcome;
  if (clientCount === 0) return "no socket has a matching filter";
  return `${plural(clientCount, "socket")}, ${plural(results.length, "answer")} in ${Math.round(ms)} ms`;
}

function Outcomes({ fanout }: { fanout: Fanout }) {
  const publications = useStore(fanout.publications);
  return (
    <div role="log" aria-label="What came back">
      <ol class="outcomes">
        {publications.map((publication) => {
          const { id, userId, type, outcome } = publication;
          const results = outcome && "results" in outcome ? outcome.results : [];
          return (
            <li key={id}>
              <span>
                <b>{type}</b> → {userId}
              </span>
              <span class="quiet">{outcomeText(publication)}</span>
              {results.length > 0 && <code class="result">{JSON.stringify(results)}</code>}
            </li>
          );
        })}
      </ol>
    </div>
  );
}

function Filters({ fanout }: { fanout: Fanout }) {
  const filters = useStore(fanout.filters);
  const [type, setType] = useState("");
  const [fields, setFields] = useState("");
  const [fault, setFault] = useState<string | null>(null);

  function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    try {
      fanout.subscribe({ ...parseFields(fields), type });
      setType("");
      setFields("");
      setFault(null);
    } catch (error) {
      setFault(error instanceof Error ? error.message : String(error));
    }
  }

  return (
    <form class="stage filters" aria-label="Filters" onSubmit={submit}>
      <h3>Filters of this tab</h3>
      <ul class="chips" aria-label="Filters of this tab">
        {filters.map((filter) => (
          <li key={filterText(filter)}>
            <code>{filterText(filter)}</code>
            <button class="remove" type="button" onClick={() => fanout.unsubscribe(filter)}>
              <span aria-hidden="true">×</span>
              <span class="unseen">Remove {filterText(filter)}</span>
            </button>
          </li>
        ))}
      </ul>
      {filters.length === 0 && <p class="empty">Without a filter nothing arrives.</p>}
      <label>
        <span>Type</span>
        <input
          required
          maxLength={256}
          placeholder="chat_message"
          value={type}
          onInput={(e) => setType(e.currentTarget.value)}
        />
      </label>
      <label>
        <span>Where the payload has</span>
        <input
          placeholder="questId=q1 lang=en"
          value={fields}
          onInput={(e) => setFields(e.currentTarget.value)}
        />
      </label>
      {fault !== null && (
        <p class="fault" role="alert">
          {fault}
        </p>
      )}
      <div class="actions">
        <button type="submit">Add filter</button>
      </div>
    </form>
  );
}

function Envelope({ arrival, answer }: { arrival: Arrival; answer: () => void }) {
  const { envelope, answer: given } = arrival;
  return (
    <li class="envelope">
      <p>
        <b>{envelope.type}</b> <time class="quiet">{clock(Date.parse(envelope.timestamp))}</time>
      </p>
      <code>{JSON.stringify(envelope.payload) ?? "no payload"}</code>
      {given !== null ? (
        <p class="quiet">
          answered <code>{JSON.stringify(given)}</code>
        </p>
      ) : (
        <button class="reply" type="button" onClick={answer}>
          Answer
        </button>
      )}
    </li>
  );
}

function Inbox({ fanout, self }: { fanout: Fanout; self: string }) {
  const arrivals = useStore(fanout.arrivals);
  const [answer, setAnswer] = useState(`seen by ${self}`);
  const [isAuto, setAuto] = useState(true);
  useEffect(() => {
    fanout.autoAnswer.value = isAuto ? answer : null;
  }, [fanout, answer, isAuto]);
  return (
    <div class="stage inbox">
      <h3>Envelopes</h3>
      <label>
        <span>Answer with</span>
        <input value={answer} onInput={(e) => setAnswer(e.currentTarget.value)} />
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={isAuto}
          onChange={(e) => setAuto(e.currentTarget.checked)}
        />
        <span class="word">as soon as one arrives</span>
      </label>
      <div role="log" aria-label="Envelopes">
        {arrivals.length === 0 && <p class="empty">Nothing has arrived yet.</p>}
        <ol class="envelopes">
          {arrivals.map((arrival) => {
            const { envelopeId } = arrival.envelope;
            return (
              <Envelope
                key={envelopeId}
                arrival={arrival}
                answer={() => fanout.answer(envelopeId, answer)}
              />
            );
          })}
        </ol>
      </div>
    </div>
  );
}

export function FanoutPanel({ fanout, self }: { fanout: Fanout; self: string }) {
  return (
    <Panel
      name="fanout"
      title="Fan-out"
      wire="POST /publish → WS /ws/fanout → ack"
      idea="A backend publishes to a user. Sockets whose filters match get the envelope, and what they answer goes back to the backend."
    >
      <div class="stages">
        <PublishForm fanout={fanout} self={self} />
        <Filters fanout={fanout} />
        <Inbox fanout={fanout} self={self} />
      </div>
    </Panel>
  );
}
