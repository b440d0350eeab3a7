/** The peer of the heartbeat benchmark: a Worker that parses the JSON and calls an empty method. */
import { DurableObject } from "cloudflare:workers";

interface PeerEnv {
  PEER: DurableObjectNamespace<Peer>;
}

export class Peer extends DurableObject {
  nothing(_: unknown): void {}
}

export default {
  async fetch(request: Request, env: PeerEnv): Promise<Response> {
    const beat = (await request.json()) as { user_id: string };
    await env.PEER.getByName(beat.user_id).nothing(beat);
    return new Response(null, { status: 204 });
  },
};
