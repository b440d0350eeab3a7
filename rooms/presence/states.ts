import type { SessionState } from "../../src/actor/attachment.ts";
import type { Session } from "../../src/actor/session.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { exceedsBytes, type Untyped } from "../../src/wire/frames.ts";
import { assertJson } from "../../src/wire/json.ts";

const STATE_BYTES = 4_096;
/** Kept for a session whose client has taken its state back, so that a client that was away learns of it. */
const NONE = "null";

/**
 * The JSON that is kept of a state.
 *
 * @throws RollcallError `invalid_data` when JSON cannot hold it, or for more than 4 KiB
 */
export function encodeState(state: unknown): string {
  let text: string;
  try {
    assertJson(state);
    text = JSON.stringify(state);
  } catch {
    throw new RollcallError("invalid_data", "A state is what JSON can hold", "state");
  }
  if (exceedsBytes(text, STATE_BYTES)) {
    throw new RollcallError("invalid_data", `A state has at most ${STATE_BYTES} bytes`, "state");
  }
  return text;
}

function isVisible(state: SessionState | undefined, now: number): state is SessionState {
  return state !== undefined && state.text !== NONE && (state.untilMs ?? Infinity) > now;
}

/** The state of a session at `now` (ms), as an entry of the roster has it. */
export function stateOf({ state }: Session, now: number): { state?: Untyped; untilMs?: number } {
  if (!isVisible(state, now)) return {};
  const { text, untilMs } = state;
  return { state: JSON.parse(text), ...(untilMs !== undefined && { untilMs }) };
}

/** Which states of sessions have changed since others were told. */
export class States<T extends Session> {
  /** With what others were told before; null where they were told different things. */
  readonly #changed = new Map<T, SessionState | undefined | null>();

  /** @param text of {@link encodeState} */
  set(session: T, text: string, untilMs: number | undefined): void {
    const old = session.state;
    if ((old?.text ?? NONE) === text && old?.untilMs === untilMs) return;
    if (!this.#changed.has(session)) this.#changed.set(session, old);
    session.setState({ text, ...(untilMs !== undefined && { untilMs }) });
  }

  /** Somebody was told how all states are now. */
  told(): void {
    for (const session of this.#changed.keys()) this.#changed.set(session, null);
  }

  /** The sessions whose state is another one than others were told, once. */
  takeChanged(now: number): T[] {
    const sessions: T[] = [];
    for (const [session, told] of this.#changed) {
      if (session.ended || session.loss?.gone) continue;
      const { state } = session;
      if (told === null) {
        sessions.push(session);
        continue;
      }
      const isTold = isVisible(told, now);
      if (!isTold && !isVisible(state, now)) continue;
      if (isTold && told.text === state?.text && told.untilMs === state.untilMs) continue;
      sessions.push(session);
    }
    this.#changed.clear();
    return sessions;
  }
}

/** `states` of `presence.diff` as JSON. */
export function encodeStates(sessions: Iterable<Session>, now: number): string {
  const items: string[] = [];
  for (const { id, meta, state } of sessions) {
    const head = `{"userId":${JSON.stringify(meta.userId)},"session":"${id}","state":`;
    if (!isVisible(state, now)) items.push(`${head}null}`);
    else if (state.untilMs === undefined) items.push(`${head}${state.text}}`);
    else items.push(`${head}${state.text},"untilMs":${state.untilMs}}`);
  }
  return `[${items.join(",")}]`;
}
