import type { TargetedSubmitEvent } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { Panel } from "../parts.tsx";
import { randomUuid } from "../store.ts";
import { Fault } from "./parts.tsx";

/** A message as it was entered. */
export interface Draft {
  name: string;
  /** Undefined: the field was empty. */
  json: unknown;
  channel: string;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @throws Error with what to correct */
function parseData(text: string, objectsOnly: boolean): unknown {
  if (text.trim() === "") return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const details = error instanceof Error ? error.message : "";
    throw new Error(`This is not JSON. ${details}`);
  }
  if (objectsOnly && !isObject(value)) {
    throw new Error('This must be an object, such as {"text": "Hello"}.');
  }
  return value;
}

/**
 * Publishes to a room or to a user.
 *
 * @param send gives what came of it, in words. A second attempt of the same message has the same key
 */
export function PublishPanel(props: {
  wire: string;
  idea: string;
  nameLabel: string;
  firstName: string;
  dataLabel: string;
  objectsOnly: boolean;
  withChannel: boolean;
  send: (draft: Draft, key: string) => Promise<string>;
}) {
  const { wire, idea, nameLabel, firstName, dataLabel, objectsOnly, withChannel, send } = props;
  const [name, setName] = useState(firstName);
  const [channel, setChannel] = useState("");
  const [text, setText] = useState('{ "text": "Hello" }');
  const [fault, setFault] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const [outcome, setOutcome] = useState("");
  const attempt = useRef({ content: "", key: "" });
  const field = useRef<HTMLTextAreaElement>(null);
  const faultId = useId();

  async function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    if (isBusy) return;
    let json: unknown;
    try {
      json = parseData(text, objectsOnly);
    } catch (thrown) {
      setFault(thrown instanceof Error ? thrown.message : String(thrown));
      field.current?.focus();
      return;
    }
    setFault(null);
    setError(null);
    setOutcome("Publishing…");
    setBusy(true);
    const content = JSON.stringify([name, text, channel]);
    if (attempt.current.content !== content) attempt.current = { content, key: randomUuid() };
    try {
      setOutcome(await send({ name, json, channel: channel.trim() }, attempt.current.key));
      attempt.current = { content: "", key: "" };
    } catch (thrown) {
      setOutcome("");
      setError(thrown);
    } finally {
      setBusy(false);
    }
  }

  return (
    <Panel name="publishing" title="Publish" wire={wire} idea={idea}>
      <form class="fields" aria-label="Publish" onSubmit={submit}>
        <div class={withChannel ? "pair" : ""}>
          <label>
            <span>{nameLabel}</span>
            <input
              required
              maxLength={256}
              autocomplete="off"
              value={name}
              onInput={(e) => setName(e.currentTarget.value)}
            />
          </label>
          {withChannel && (
            <label>
              <span>Channel, optional</span>
              <input
                maxLength={256}
                autocomplete="off"
                placeholder="default"
                value={channel}
                onInput={(e) => setChannel(e.currentTarget.value)}
              />
            </label>
          )}
        </div>
        <label>
          <span>{dataLabel}</span>
          <textarea
            ref={field}
            rows={5}
            spellcheck={false}
            aria-invalid={fault !== null}
            aria-describedby={fault === null ? undefined : faultId}
            value={text}
            onInput={(e) => {
              setText(e.currentTarget.value);
              setFault(null);
            }}
          />
        </label>
        {fault !== null && (
          <p class="fault" role="alert" id={faultId}>
            {fault}
          </p>
        )}
        {error !== null && <Fault error={error} />}
        <div class="actions">
          <button type="submit" class="primary" aria-disabled={isBusy}>
            Publish
          </button>
          <p class="outcome" role="status">
            {outcome}
          </p>
        </div>
      </form>
    </Panel>
  );
}
