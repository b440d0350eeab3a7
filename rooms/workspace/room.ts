import { DurableObject } from "cloudflare:workers";
import { readBody } from "../../src/http/body.ts";
import { inSpan } from "../../src/http/trace.ts";
import { log } from "../../src/log.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import {
  authorizeMember,
  type MembershipEnv,
  parseMember,
  reauthorizeMember,
  refusalResponse,
  SyncRefusal,
  serializeMember,
} from "./access.ts";
import { guardMessage, MESSAGE_BYTES, parseMessage, type RelayMessage } from "./frames.ts";
import { attachmentOf, Relay, type RelayEnv } from "./relay.ts";

export interface WorkspaceRoomEnv extends MembershipEnv, RelayEnv {}

/** Pulls that one socket may have open: each is in its attachment and receives every push. */
const OPEN_PULLS = 32;

/**
 * One workspace: LiveStore's relay behind a membership check. The URL authorizes a client; its
 * membership is stored with the socket; every message is checked before the relay receives it.
 */
export class WorkspaceRoom extends DurableObject<WorkspaceRoomEnv> {
  readonly #relay: Relay;
  readonly #storeId: string;

  constructor(ctx: DurableObjectState, env: WorkspaceRoomEnv) {
    super(ctx, env);
    const { name } = ctx.id;
    if (name === undefined) throw new Error("Reach a workspace's actor by its name: getByName");
    this.#storeId = name;
    this.#relay = new Relay({
      ctx,
      env,
      storeId: name,
      authorizePush: (member) => this.#authorizePush(member),
    });
    void ctx.blockConcurrencyWhile(() => this.#relay.open());
  }

  override async fetch(request: Request): Promise<Response> {
    try {
      const url = new URL(request.url);
      const member = await inSpan("sync.auth", () => authorizeMember(url, this.env));
      if (member.storeId !== this.#storeId) throw new Error("The request is another actor's");
      const sender = serializeMember(member);
      return url.searchParams.get("transport") === "http"
        ? await this.#relay.post(await this.#readMessages(request), sender)
        : await this.#relay.connect(sender);
    } catch (thrown) {
      return refusalResponse(thrown);
    }
  }

  override async webSocketMessage(socket: WebSocket, frame: string | ArrayBuffer): Promise<void> {
    let message: RelayMessage;
    try {
      message = this.#guardFrame(socket, frame);
    } catch (thrown) {
      closeSocket(socket, thrown);
      return;
    }
    if (message._tag === "Request" && message.tag.endsWith(".Pull")) {
      try {
        await this.#authorizePull(socket);
      } catch (thrown) {
        closeSocket(socket, thrown);
        return;
      }
    }
    await this.#relay.receive(socket, message);
  }

  /** A socket outlives a grace period and a claims version: a pull would read the whole log. */
  async #authorizePull(socket: WebSocket): Promise<void> {
    await reauthorizeMember(parseMember(attachmentOf(socket)?.headers.member ?? ""), this.env);
  }

  override async webSocketClose(
    socket: WebSocket,
    code: number,
    reason: string,
    wasClean: boolean,
  ): Promise<void> {
    await this.#relay.disconnect(socket, code, reason, wasClean);
  }

  async #readMessages(request: Request): Promise<RelayMessage | RelayMessage[]> {
    const body = await readBody(request, MESSAGE_BYTES);
    if (body === null) throw new RollcallError("too_large", "The body is too long");
    const guard = (message: unknown) => guardMessage(message, this.#storeId, "http");
    const messages = parseMessage(body);
    return Array.isArray(messages) ? messages.map(guard) : guard(messages);
  }

  #guardFrame(socket: WebSocket, frame: string | ArrayBuffer): RelayMessage {
    if (typeof frame !== "string") {
      throw new RollcallError("bad_frame", "Frames are text, not binary");
    }
    const attachment = attachmentOf(socket);
    if (!attachment) throw new Error("A socket without an attachment");
    if (attachment.pullRequestIds.length > OPEN_PULLS) {
      throw new RollcallError("rate_limited", `A socket has at most ${OPEN_PULLS} pulls`);
    }
    return guardMessage(parseMessage(frame), this.#storeId, "ws");
  }

  /**
   * Before a push, checks that its sender is still a member. All other members with a socket are
   * checked too, so that one that only reads is removed as well; the push does not wait for them.
   */
  async #authorizePush(sender: string | undefined): Promise<void> {
    if (sender === undefined) throw new Error("A push without a sender");
    const senders = new Set([sender]);
    for (const socket of this.ctx.getWebSockets()) {
      const other = attachmentOf(socket)?.headers.member;
      if (other !== undefined) senders.add(other);
    }
    const checks = [...senders].map(async (text) => {
      try {
        const member = parseMember(text);
        await reauthorizeMember(member, this.env);
        if (text !== sender || !member.readsOnly) return;
      } catch (thrown) {
        // A failure to read KV does not end what was authorized before.
        const isRemoved = thrown instanceof SyncRefusal && thrown.code !== "AUTH_SERVICE_ERROR";
        if (isRemoved) this.#closeMember(text, thrown);
        if (text === sender) throw thrown;
        return;
      }
      // It stays connected: it may read.
      throw new SyncRefusal("FORBIDDEN", "A viewer only reads");
    });
    this.ctx.waitUntil(Promise.allSettled(checks));
    await checks[0];
  }

  #closeMember(member: string, refusal: SyncRefusal): void {
    for (const socket of this.ctx.getWebSockets()) {
      if (attachmentOf(socket)?.headers.member === member) closeSocket(socket, refusal);
    }
  }
}

/** Closes a socket with the code of what its frame made us throw. */
function closeSocket(socket: WebSocket, thrown: unknown): void {
  if (thrown instanceof SyncRefusal || thrown instanceof RollcallError) {
    socket.close(thrown.closeCode, thrown.code);
  } else {
    log("workspace_frame_failed", { error: thrown });
    socket.close(1011, "internal");
  }
}
