import type { CursorGap } from "../../src/actor/history.ts";
import type { ConnectionMeta, RoomContext, VeraniActor } from "../../src/actor/room.ts";
import type { Session } from "../../src/actor/session.ts";
import type { FilterKey } from "./filters.ts";
import type { Starts } from "./starts.ts";

export interface FanoutMeta extends ConnectionMeta {
  filters: Set<FilterKey>;
  /** Whether a publisher waits for its acks. A stream cannot ack. The stored name stays. */
  answers: boolean;
  /** Since when each filter holds. Absent in sessions of earlier releases. */
  starts?: Starts;
  /** The filter of a stream and the cursor that it begins with, until it has begun. */
  first?: FilterKey;
  since?: string;
  /** A socket of `/ws/people`: the users that it watches, and those that it watches and may not see. */
  people?: string[];
  hidden?: string[];
}

export interface Subscription {
  filters: FilterKey[];
  /** A cursor: later envelopes come first. */
  since?: string;
}

export interface FanoutEvents {
  in: {
    subscribe: Subscription;
    unsubscribe: Subscription;
    /** `result` as JSON. */
    ack: { envelopeId: string; result: string };
    watch: { ids: unknown };
    unwatch: { ids: unknown };
  };
  out: {
    error: { code: "too_many_filters" };
    gap: { reason: CursorGap; cursor: string };
    cursor: { cursor: string };
  };
}

export type FanoutActor = VeraniActor<FanoutMeta, unknown, FanoutEvents>;
export type FanoutSession = Session<FanoutMeta>;
export type FanoutContext = RoomContext<FanoutMeta, unknown, FanoutEvents>;
