/**
 * `rollcall/verani`: Verani 0.5's own names and nothing else, for rooms that change their import only.
 * With the alias `"verani": "npm:rollcall"` not even that: `verani` is then the whole library, which
 * has these names too, and `verani/client` the client.
 *
 * @module
 */
export {
  type ActorHandlerClass,
  type ActorStub,
  type BroadcastOptions,
  type ClientMessage,
  type ConnectionMeta,
  createActorHandler,
  decodeClientMessage,
  decodeFrame,
  decodeServerMessage,
  defineRoom,
  encodeClientMessage,
  encodeFrame,
  encodeServerMessage,
  type MessageContext,
  type MessageFrame,
  PROTOCOL_VERSION,
  type RoomContext,
  type RoomDefinition,
  type RpcBroadcastOptions,
  restoreSessions,
  type ServerMessage,
  storeAttachment,
  type VeraniActor,
  type VeraniMessage,
} from "./index.ts";
