import { type Envelope, FanoutClient, type Filter } from "../../client/fanout.ts";
import type { WebSocketLike } from "../../client/socket.ts";
import { type Stage, signUser } from "./stage.ts";
import { Stream } from "./streams.ts";

export interface SubscriberOptions<P> {
  userId: string;
  filter: Filter;
  by: "socket" | "stream";
  /** The value that it returns is the ack of a socket. */
  onEnvelope(envelope: Envelope<P>): unknown;
  onOpen?(): void;
  onLost?(why: string): void;
  WebSocket?: new (url: string) => WebSocketLike;
}

/** A subscriber of a user's fan-out, by the real client's socket or by a stream. */
export class Subscriber<P> {
  readonly isStream: boolean;
  readonly userId: string;
  readonly #stream: Stream | undefined;
  readonly #client: FanoutClient<Record<string, P>> | undefined;

  private constructor({ url, wsUrl }: Stage, token: string, options: SubscriberOptions<P>) {
    const { userId, filter, by, onEnvelope, onOpen, onLost, WebSocket } = options;
    this.userId = userId;
    this.isStream = by === "stream";
    if (this.isStream) {
      const query = new URLSearchParams({ ...filter, token });
      this.#stream = new Stream(`${url}/fanout/stream?${query}`, {
        onData: (data) => void onEnvelope(JSON.parse(data)),
        ...(onOpen && { onOpen }),
        ...(onLost && { onLost }),
      });
      return;
    }
    this.#client = new FanoutClient<Record<string, P>>(wsUrl, {
      token,
      onStateChange: (state) => state === "connected" && onOpen?.(),
      onClose: ({ code, reason }) => onLost?.(`${code} ${reason}`),
      ...(WebSocket && { WebSocket }),
    });
    this.#client.subscribe(filter, onEnvelope);
  }

  static async open<P>(stage: Stage, options: SubscriberOptions<P>): Promise<Subscriber<P>> {
    return new Subscriber(stage, await signUser(stage.jwtSecret, options.userId), options);
  }

  /** For sockets only. */
  get isConnected(): boolean {
    return this.#client?.state === "connected";
  }

  reconnect(): void {
    this.#client?.reconnect();
  }

  close(): void {
    this.#client?.disconnect();
    this.#stream?.close();
  }
}
