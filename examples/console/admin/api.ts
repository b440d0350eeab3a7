import type { Heartbeat } from "../../../rooms/devices/device.ts";
import type { PresenceCount, RosterEntry, RosterPage } from "../../../rooms/presence/roster.ts";
import type { Access } from "../access.ts";

export type { PresenceCount, RosterEntry };

/** A page of a room's users, by id. */
export type RoomPage = PresenceCount & RosterPage<string>;

/** Where a user is, as the user's own actor knows it. */
export interface UserRecord {
  online: boolean;
  /** Server time in ms; null: not known. */
  lastSeenMs: number | null;
  rooms: { room: string; devices: number; status: string }[];
  /** The last heartbeat of each device. */
  devices: Heartbeat[];
}

/** An event for a room, or a message for a user. */
export interface RoomMessage {
  event: string;
  data?: object;
  channel?: string;
}
export interface UserMessage {
  type: string;
  payload?: unknown;
}

/** An answer that is not 2xx. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  /** Of the server's closed list of errors; empty where the answer is not the server's. */
  readonly code: string;
  /** Seconds after which a 429 or 503 may be tried again; 0: not known. */
  readonly retryAfterS: number;

  constructor(status: number, code: string, details: string, retryAfterS: number) {
    super(details);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same request can work later. */
  get isPassing(): boolean {
    return this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

async function toApiError(answer: Response): Promise<ApiError> {
  const body: unknown = await answer.json().catch(() => null);
  const { error = "", details = error } = (body ?? {}) as { error?: unknown; details?: unknown };
  const retryAfterS = Number(answer.headers.get("Retry-After")) || 0;
  return new ApiError(answer.status, String(error), String(details), retryAfterS);
}

/** An error in plain words, and the code that names it to other people. */
export function explain(error: unknown): { text: string; code: string } {
  if (!(error instanceof ApiError)) {
    // What `fetch` throws differs by browser, and helps nobody.
    const text = error instanceof TypeError ? "The server cannot be reached." : String(error);
    return { text, code: "" };
  }
  const { status, code, message } = error;
  // Fan-out's contract has sentences in place of codes.
  return { text: sentence(error), code: code === message ? `${status}` : `${status} ${code}` };
}

function sentence({ status, message, retryAfterS }: ApiError): string {
  const details = message === "" ? "" : `${message.replace(/\.$/, "")}.`;
  switch (status) {
    case 401:
      return `The server does not accept your token. ${details} Sign in again.`;
    case 403:
      return details.replace(/^The token/, "Your token") || "Your token does not allow this.";
    case 404:
      return details || "The server does not have this.";
    case 429:
      return `Too many requests. Try again in ${retryAfterS || 10} s.`;
    case 503:
      return `The server cannot do this now. ${details}`;
    default:
      return details || "The server failed.";
  }
}

let signIns = 0;

/** What this page asks of the server, with the operator's token. */
export class Api {
  /** Another one for each sign-in. */
  readonly id = ++signIns;
  /** The id of the operator. */
  readonly self: string;
  readonly #access: Access;

  constructor(access: Access) {
    this.self = access.name;
    this.#access = access;
  }

  /** @param after the page begins after this user */
  readRoom(room: string, after: string | null, signal: AbortSignal): Promise<RoomPage> {
    const query = new URLSearchParams({ users: "1", ...(after !== null && { after }) });
    return this.#json("GET", `${roomPath(room)}?${query}`, { signal });
  }

  /** The room's events from `lastEventId` on. @throws ApiError when the server refuses */
  openStream(room: string, lastEventId: string, signal: AbortSignal): Promise<Response> {
    const headers = {
      Accept: "text/event-stream",
      ...(lastEventId !== "" && { "Last-Event-ID": lastEventId }),
    };
    return this.#send("GET", `${roomPath(room)}/stream`, { headers, signal });
  }

  /** @param key the same key sends the message once, however often it is used */
  publishToRoom(
    room: string,
    message: RoomMessage,
    key: string,
  ): Promise<{ recipients: number; cursor: string }> {
    return this.#json("POST", `${roomPath(room)}/events`, {
      headers: { "Idempotency-Key": key },
      body: message,
    });
  }

  /** @param blockMs for so long the user cannot return; 0: at once */
  kick(room: string, userId: string, blockMs: number): Promise<{ sessions: number }> {
    const query = blockMs > 0 ? `?blockMs=${blockMs}` : "";
    return this.#json("DELETE", `${roomPath(room)}/users/${encodeURIComponent(userId)}${query}`);
  }

  readUser(userId: string, signal: AbortSignal): Promise<UserRecord> {
    return this.#json("GET", userPath(userId), { signal });
  }

  /** Ends the user's sessions, and refuses all tokens that were issued until now. */
  revoke(userId: string): Promise<{ sessions: number; issuedBefore: number }> {
    return this.#json("POST", `${userPath(userId)}/revoke`);
  }

  /** Ends the user's sessions; the clients may return at once. */
  disconnect(userId: string): Promise<{ sessions: number }> {
    return this.#json("POST", `${userPath(userId)}/disconnect`);
  }

  /** Waits for the acks of the user's sockets, for 5 s at most. */
  publishToUser(
    userId: string,
    message: UserMessage,
    key: string,
  ): Promise<{ clientCount: number; results: unknown[] }> {
    return this.#json("POST", "/publish", {
      headers: { "Idempotency-Key": key },
      body: { userId, ...message },
    });
  }

  async #json<T>(method: string, path: string, request: Outgoing = {}): Promise<T> {
    return (await this.#send(method, path, request)).json();
  }

  async #send(
    method: string,
    path: string,
    { headers, body, signal }: Outgoing,
  ): Promise<Response> {
    const answer = await fetch(path, {
      method,
      // In a header and never in the address, which logs and histories keep.
      headers: {
        ...headers,
        Authorization: `Bearer ${await this.#access.jwt()}`,
        ...(body !== undefined && { "Content-Type": "application/json" }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
      cache: "no-store",
      credentials: "omit",
    });
    if (!answer.ok) throw await toApiError(answer);
    return answer;
  }
}

interface Outgoing {
  headers?: Record<string, string>;
  body?: object;
  signal?: AbortSignal;
}

function roomPath(room: string): string {
  return `/api/v1/rooms/${encodeURIComponent(room)}`;
}

function userPath(userId: string): string {
  return `/api/v1/users/${encodeURIComponent(userId)}`;
}
