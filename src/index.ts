/**
 * The library: rooms as Durable Objects. It exports all of Verani 0.5's names, so that rooms written
 * for Verani run with the alias `"verani": "npm:rollcall"`, and Rollcall's own.
 *
 * @module
 */
export { requestToken } from "./access/bearer.ts";
export { restoreSessions } from "./actor/actor.ts";
export { storeAttachment } from "./actor/attachment.ts";
export {
  type CallResult,
  type CallsOf,
  type CallTarget,
  call,
  callIngest,
  type IngestResult,
  type Inspection,
} from "./actor/call.ts";
export type { Counters } from "./actor/counters.ts";
export type {
  ActorEmit,
  BroadcastOptions,
  EmitBuilder,
  EventMap,
  RpcBroadcastOptions,
  SocketEmit,
} from "./actor/emit.ts";
export type { CursorGap, LoggedEvent, LogRange, RoomLog } from "./actor/history.ts";
export { LIMITS, type Limits } from "./actor/limits.ts";
export { LIVENESS, type Liveness } from "./actor/liveness.ts";
export type { LogOptions } from "./actor/log.ts";
export type { ConnectionMeta } from "./actor/meta.ts";
export { defineRecord, type RecordDefinition, type RecordType } from "./actor/record.ts";
export {
  defineRoom,
  type EventHandler,
  type MessageContext,
  perActor,
  type ResumeInfo,
  type Room,
  type RoomContext,
  type RoomDefinition,
  type RoomDefinitionWithHandlers,
  type RoomEventEmitter,
  type Shard,
  type VeraniActor,
} from "./actor/room.ts";
export type { Departure, DepartureInfo, EndReason, Session } from "./actor/session.ts";
export type { ActorStub } from "./actor/stub.ts";
export type { Timers } from "./actor/timers.ts";
export {
  type ActorHandlerClass,
  createActorHandler,
  type RoomStub,
  roomStub,
  type ShardedRoom,
} from "./shards/index.ts";
export { type Codec, veraniCodec } from "./wire/codec.ts";
export {
  AppError,
  ERRORS,
  type ErrorCode,
  type ErrorPayload,
  RollcallError,
} from "./wire/errors.ts";
export {
  type ClientMessage,
  decodeClientMessage,
  decodeFrame,
  decodeServerMessage,
  encodeClientMessage,
  encodeFrame,
  encodeServerMessage,
  type MessageFrame,
  type ServerMessage,
  type VeraniMessage,
} from "./wire/frames.ts";
export { PROTOCOL_VERSION } from "./wire/version.ts";
