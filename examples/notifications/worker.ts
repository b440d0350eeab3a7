import { callIngest, RollcallError } from "rollcall";
import { type Env, identify, push } from "./room.ts";

export { Feed } from "./room.ts";

const encoder = new TextEncoder();

/** `POST /push` of a backend: kept for the user, and shown on the devices that are there. */
async function pushed(request: Request, env: Env): Promise<Response> {
  const [given, wanted] = await Promise.all(
    [request.headers.get("Authorization") ?? "", `Bearer ${env.PUSH_TOKEN}`].map((text) =>
      crypto.subtle.digest("SHA-256", encoder.encode(text)),
    ),
  );
  if (!env.PUSH_TOKEN || !given || !wanted || !crypto.subtle.timingSafeEqual(given, wanted)) {
    return Response.json({ error: "unauthorized" }, { status: 401 });
  }
  const body = push.safeParse(await request.json().catch(() => null));
  if (!body.success) return Response.json({ error: "bad_request" }, { status: 400 });
  return Response.json(await callIngest(env.FEED.getByName(body.data.userId), "push", body.data));
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    try {
      const { pathname } = new URL(request.url);
      if (pathname === "/push" && request.method === "POST") return await pushed(request, env);
      const { userId } = await identify(request, env);
      return await env.FEED.getByName(userId).fetch(request);
    } catch (error) {
      if (!(error instanceof RollcallError)) throw error;
      return Response.json({ error: error.code }, { status: error.status });
    }
  },
};
