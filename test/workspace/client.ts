/** A client of the workspace Worker that sends what sync-cf's clients send, frame by frame. */
import { SELF } from "cloudflare:test";
import { env as bindings } from "cloudflare:workers";
import { SignJWT } from "jose";
import type { WorkspaceEnv, WorkspaceRoomEnv } from "../../rooms/workspace/worker.ts";

export type TestEnv = WorkspaceEnv & WorkspaceRoomEnv & Record<string, unknown>;
/** The generated types describe the main Worker's bindings. */
export const env = bindings as unknown as TestEnv;

export const ORIGIN = "https://rollcall.test";
export type Transport = "ws" | "http";
export const TRANSPORTS: Transport[] = ["ws", "http"];

export interface Claims {
  userId?: unknown;
  workspaces?: unknown;
  workspaceClaimsVersion?: unknown;
  exp?: number;
}

export function sign(claims: Claims, secret = String(env.JWT_SECRET)): Promise<string> {
  return new SignJWT({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })
    .setProtectedHeader({ alg: "HS256" })
    .sign(new TextEncoder().encode(secret));
}

export function signMember(userId: string, workspaceId: string, version = 1): Promise<string> {
  const workspaces = [{ id: workspaceId, role: "member" }];
  return sign({ userId, workspaces, workspaceClaimsVersion: version });
}

/** The first request of a sync-cf client: an upgrade, or a POST with a pull. */
export function syncRequest(transport: Transport, storeId: string, payload?: unknown): Request {
  const url = new URL("/sync", ORIGIN);
  url.searchParams.set("storeId", storeId);
  url.searchParams.set("transport", transport);
  if (payload !== undefined) {
    url.searchParams.set("payload", encodeURIComponent(JSON.stringify(payload)));
  }
  if (transport === "ws") return new Request(url, { headers: { Upgrade: "websocket" } });
  return postOf(url, pullOf(storeId, "SyncHttpRpc"));
}

export function postOf(url: URL | string, message: unknown): Request {
  return new Request(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(message),
  });
}

type Rpc = "SyncWsRpc" | "SyncHttpRpc";

export function pullOf(storeId: string, rpc: Rpc = "SyncWsRpc", id = "1"): object {
  const payload = { storeId, cursor: { _tag: "None" }, live: true };
  return { _tag: "Request", id, tag: `${rpc}.Pull`, payload, headers: [] };
}

export interface Event {
  name: string;
  args: unknown;
  seqNum: number;
  parentSeqNum: number;
  clientId: string;
  sessionId: string;
}

/** `count` events that follow the one of number `parent`. */
export function eventsAfter(parent: number, count: number, name = "e"): Event[] {
  return Array.from({ length: count }, (_, index) => ({
    name,
    args: { n: parent + index + 1 },
    seqNum: parent + index + 1,
    parentSeqNum: parent + index,
    clientId: "client",
    sessionId: "session",
  }));
}

export function pushOf(storeId: string, batch: Event[], rpc: Rpc = "SyncWsRpc", id = "2"): object {
  const payload = { storeId, batch, backendId: { _tag: "None" } };
  return { _tag: "Request", id, tag: `${rpc}.Push`, payload, headers: [] };
}

interface ServerFrame {
  _tag: string;
  requestId?: string;
  values?: { batch: { eventEncoded: Event }[] }[];
  exit?: { _tag: string; cause?: unknown };
}

/** A socket to one workspace, with every frame that it received. */
export class SyncSocket {
  readonly #socket: WebSocket;
  readonly frames: ServerFrame[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  #id = 10;
  #onFrame = () => {};

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      socket.addEventListener("close", ({ code, reason }) => resolve({ code, reason }));
    });
    socket.addEventListener("message", ({ data }) => {
      this.frames.push(JSON.parse(String(data)) as ServerFrame);
      this.#onFrame();
    });
    socket.accept();
  }

  static async open(storeId: string, payload: unknown): Promise<SyncSocket> {
    const response = await SELF.fetch(syncRequest("ws", storeId, payload));
    if (!response.webSocket) throw new Error(`${response.status} ${await response.text()}`);
    return new SyncSocket(response.webSocket);
  }

  static async member(userId: string, workspaceId: string): Promise<SyncSocket> {
    const authToken = await signMember(userId, workspaceId);
    return SyncSocket.open(workspaceId, { instanceId: workspaceId, authToken });
  }

  send(message: unknown): void {
    this.#socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  async until<T>(find: (frames: ServerFrame[]) => T | undefined): Promise<T> {
    for (;;) {
      const found = find(this.frames);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => {
        this.#onFrame = resolve;
      });
    }
  }

  /** Pushes, and returns `Success` or the failure as text. */
  async push(storeId: string, batch: Event[]): Promise<string> {
    const id = `${this.#id++}`;
    this.send(pushOf(storeId, batch, "SyncWsRpc", id));
    const { exit } = await this.until((frames) =>
      frames.find((frame) => frame._tag === "Exit" && frame.requestId === id),
    );
    return exit?._tag === "Success" ? "Success" : JSON.stringify(exit?.cause);
  }

  /** The numbers of all events that it received, in this order. */
  get received(): number[] {
    return this.frames.flatMap(({ values = [] }) =>
      values.flatMap(({ batch }) => batch.map(({ eventEncoded }) => eventEncoded.seqNum)),
    );
  }

  /** Waits for this many events. */
  receive(count: number): Promise<number[]> {
    return this.until(() => (this.received.length >= count ? this.received : undefined));
  }

  close(): void {
    this.#socket.close(1000);
  }
}

export const setVersion = (userId: string, version: string): Promise<void> =>
  env.WORKSPACE_CLAIMS_VERSION.put(`workspace-claims-version:${userId}`, version);
