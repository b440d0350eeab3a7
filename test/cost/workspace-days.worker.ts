/** As days.worker.ts, for the second Worker: LiveStore's relay, with its events in D1 or in the actor. */
// First: what is imported after it finds the clock replaced.
import "./clock.worker.ts";
import { SignJWT } from "jose";
import type { WorkspaceEnv, WorkspaceRoomEnv } from "../../rooms/workspace/worker.ts";
import * as workspace from "../../src/server/workspace.ts";
import type { Counters } from "./bill.ts";
import { Day, type Fetch, type Ping, perUser, serveDays } from "./day.worker.ts";
import { metered, override } from "./meter.worker.ts";
import { MODEL, PINGS } from "./model.ts";
import * as hand from "./replaced.worker.ts";

export class WorkspaceRoom extends metered("WORKSPACES", workspace.WorkspaceRoom) {}
export class PingedRoom extends metered("PINGED", hand.PingedRoom) {}
export class WokenRoom extends metered("WOKEN", hand.WokenRoom) {}

type CostEnv = WorkspaceEnv & WorkspaceRoomEnv & hand.ReplacedEnv & { JWT_SECRET: string };

const app: Fetch<CostEnv> = (request, env) =>
  workspace.default.fetch(request, env, { waitUntil() {}, passThroughOnException() {} } as never);
const STORE = "team";
/** As Effect's sockets say it. */
const EFFECT: Ping = { text: '{"_tag":"Ping"}', everyMs: PINGS.workspace, wakes: false };
const BY_HAND: Ping = { text: '{"type":"ping"}', everyMs: PINGS.replaced, wakes: true };

async function path(env: CostEnv, userId: string): Promise<string> {
  const workspaces = [{ id: STORE, role: "member" }];
  const authToken = await new SignJWT({ userId, workspaces, workspaceClaimsVersion: 1 })
    .setProtectedHeader({ alg: "HS256" })
    .setExpirationTime(Math.floor((Date.now() + MODEL.workspace.tokenMs) / 1000))
    .sign(new TextEncoder().encode(env.JWT_SECRET));
  const payload = encodeURIComponent(JSON.stringify({ instanceId: STORE, authToken }));
  return `/sync?${new URLSearchParams({ storeId: STORE, transport: "ws", payload })}`;
}

const request = (id: string, tag: string, payload: object): string =>
  JSON.stringify({ _tag: "Request", id, tag: `SyncWsRpc.${tag}`, payload, headers: [] });

function workspaceDay(env: CostEnv, design: "d1" | "do" | "pinged" | "woken"): Promise<Counters> {
  const isOurs = design === "d1" || design === "do";
  override(isOurs ? { WORKSPACE_STORAGE: design } : {});
  const day = new Day(isOurs ? app : hand.replaced, env);
  const { members, socketMs, events } = MODEL.workspace;
  let head = 0;
  let requests = 1;

  for (let member = 0; member < members; member++) {
    const from = day.wakingTime(socketMs);
    day.at(from, async () => {
      const client = isOurs
        ? await day.connect(await path(env, `member-${member}`), EFFECT)
        : await day.connect(`/${design}/${STORE}`, BY_HAND);
      if (isOurs) {
        // Effect's streams ask for a receipt of each chunk.
        client.onMessage = (text) => {
          const { _tag, requestId } = JSON.parse(text) as { _tag: string; requestId: string };
          const ack = JSON.stringify({ _tag: "Ack", requestId });
          if (_tag === "Chunk") day.at(day.nowMs + day.late(), () => client.tell(ack));
        };
        const cursor = { _tag: "None" };
        await client.tell(request(`${requests++}`, "Pull", { storeId: STORE, cursor, live: true }));
      }
      for (let event = 0; event < events / members; event++) {
        day.at(from + 1_000 + day.random.unit() * (socketMs - 2_000), () => {
          const seqNum = ++head;
          const made = {
            name: "e",
            args: { text: "hello" },
            clientId: `c${member}`,
            sessionId: "s",
          };
          const batch = [{ ...made, seqNum, parentSeqNum: seqNum - 1 }];
          const push = { storeId: STORE, batch, backendId: { _tag: "None" } };
          return client.tell(
            isOurs
              ? request(`${requests++}`, "Push", push)
              : JSON.stringify({ type: "push", batch }),
          );
        });
      }
      day.at(from + socketMs, () => client.close());
    });
  }
  return day.play();
}

export default serveDays<CostEnv>(
  Object.fromEntries(
    (["d1", "do", "pinged", "woken"] as const).map((design) => [
      `workspace/${design}`,
      (env) => perUser(workspaceDay(env, design), MODEL.workspace.members),
    ]),
  ),
);
