import {
  type Envelope,
  FanoutClient,
  type Filter,
  type PublishAnswer,
  publish,
} from "../../client/fanout.ts";
import type { Access } from "./access.ts";
import type { Line } from "./line.ts";
import { Store } from "./store.ts";

export type { Envelope };

/** What a socket asks for: a type, and fields of the payload by their value. */
export type TypedFilter = Filter & { type: string };

/** An envelope that arrived, and what this tab answered. */
export interface Arrival {
  envelope: Envelope;
  answer: string | null;
}

/** A publish from this tab and what came of it. */
export interface Publication {
  id: number;
  userId: string;
  type: string;
  outcome: (PublishAnswer & { ms: number }) | { error: string } | null;
}

const KEPT = 6;

interface Subscription {
  filter: TypedFilter;
  stop: () => void;
}

/** This tab's subscriptions, what they bring, and what it publishes as a backend would. */
export class Fanout {
  readonly filters = new Store<readonly TypedFilter[]>([]);
  readonly arrivals = new Store<readonly Arrival[]>([]);
  readonly publications = new Store<readonly Publication[]>([]);
  /** What each envelope is answered with as it arrives; null: by hand. */
  readonly autoAnswer = new Store<string | null>(null);
  readonly #access: Access;
  readonly #client: FanoutClient;
  readonly #subscriptions = new Map<string, Subscription>();
  /** By envelope: several filters may bring the same one. */
  readonly #answers = new Map<string, PromiseWithResolvers<string>>();
  #publicationId = 0;

  constructor(access: Access, line: Line) {
    this.#access = access;
    this.#client = new FanoutClient(location.origin, {
      token: access.jwt,
      WebSocket: line.WebSocket,
      onStateChange: (state) => line.report("fan-out", state),
    });
    line.report("fan-out", this.#client.state);
    this.subscribe({ type: "message" });
  }

  subscribe(filter: TypedFilter): void {
    const key = JSON.stringify(Object.entries(filter).sort());
    if (this.#subscriptions.has(key)) return;
    const stop = this.#client.subscribe(filter, (envelope) => this.#arrived(envelope));
    this.#subscriptions.set(key, { filter, stop });
    this.#show();
  }

  unsubscribe(filter: TypedFilter): void {
    for (const [key, subscription] of this.#subscriptions) {
      if (subscription.filter !== filter) continue;
      subscription.stop();
      this.#subscriptions.delete(key);
    }
    this.#show();
  }

  answer(envelopeId: string, answer: string): void {
    this.#answers.get(envelopeId)?.resolve(answer);
    this.arrivals.value = this.arrivals.value.map((arrival) =>
      arrival.envelope.envelopeId === envelopeId ? { ...arrival, answer } : arrival,
    );
  }

  /** As a backend does it: over HTTP, and the answer is what the sockets answered. */
  async publish(userId: string, type: string, payload: unknown): Promise<void> {
    const id = ++this.#publicationId;
    const publication: Publication = { id, userId, type, outcome: null };
    this.publications.value = [publication, ...this.publications.value].slice(0, KEPT);
    const startedAt = performance.now();
    let outcome: Publication["outcome"];
    try {
      const server = { url: location.origin, token: this.#access.jwt };
      const answer = await publish(server, { userId, type, payload });
      outcome = { ...answer, ms: performance.now() - startedAt };
    } catch (error) {
      outcome = { error: error instanceof Error ? error.message : String(error) };
    }
    this.publications.value = this.publications.value.map((known) =>
      known.id === id ? { ...known, outcome } : known,
    );
  }

  close(): void {
    this.#client.disconnect();
  }

  #show(): void {
    this.filters.value = [...this.#subscriptions.values()].map(({ filter }) => filter);
  }

  #arrived(envelope: Envelope): Promise<string> {
    const { envelopeId } = envelope;
    const known = this.#answers.get(envelopeId);
    if (known) return known.promise;
    const answer = Promise.withResolvers<string>();
    this.#answers.set(envelopeId, answer);
    const shown = [{ envelope, answer: null }, ...this.arrivals.value];
    for (const { envelope } of shown.slice(KEPT)) this.#answers.delete(envelope.envelopeId);
    this.arrivals.value = shown.slice(0, KEPT);
    if (this.autoAnswer.value !== null) this.answer(envelopeId, this.autoAnswer.value);
    return answer.promise;
  }
}
