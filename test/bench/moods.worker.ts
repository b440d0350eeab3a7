/** The mood room as src/server/worker.ts has it; a request sends heartbeats to its one shard. */
import { moods } from "../../rooms/moods/index.ts";
import { type MoodState, shardName } from "../../rooms/moods/tally.ts";
import { createActorHandler } from "../../src/actor/actor.ts";
import { call } from "../../src/actor/call.ts";

const room = moods<Env>();

export class MoodRoom extends createActorHandler(room) {}

const IN_FLIGHT = 64;

export default {
  /** `?beats=&sessions=`: so many heartbeats, of so many sessions in turn. Answers the last state. */
  async fetch(request: Request, env: Env): Promise<Response> {
    const query = new URL(request.url).searchParams;
    const beats = Number(query.get("beats"));
    const sessions = Number(query.get("sessions"));
    const stub = env.MOODS.getByName(shardName(0));
    let sent = 0;
    let last: MoodState | undefined;
    await Promise.all(
      Array.from({ length: IN_FLIGHT }, async () => {
        while (sent < beats) {
          const sessionId = `${sent++ % sessions}`.padStart(36, "session-");
          last = await call(stub, room).heartbeat({ sessionId, mood: "presence" });
        }
      }),
    );
    return Response.json(last);
  },
} satisfies ExportedHandler<Env>;
