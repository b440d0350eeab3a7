import { env } from "cloudflare:workers";
import { expect, test, vi } from "vitest";
import worker from "../../src/server/worker.ts";
import { SECRET, sign } from "../room/fanout-client.ts";

/** A client whose connection ends in the middle of its upload. */
function brokenUpload(): ReadableStream {
  let chunks = 0;
  return new ReadableStream({
    pull(controller) {
      if (chunks++ === 0) controller.enqueue(new TextEncoder().encode('{"half":'));
      else controller.error(new Error("Network connection lost."));
    },
  });
}

test.each([
  ["/publish", () => sign({ userId: "upload" }, SECRET)],
  ["/api/v1/daemon/presence/heartbeat", () => env.PRESENCE_DO_INGEST_TOKEN],
  ["/api/leave", () => ""],
])(
  "an upload to %s that breaks off is the client's doing, and no failure in our log",
  async (path, token) => {
    const log = vi.spyOn(console, "log");
    const request = new Request(`https://rollcall.test${path}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${await token()}`, "Content-Type": "application/json" },
      body: brokenUpload(),
    });
    const answer = await worker.fetch(request, env);
    expect(answer.status).toBe(400);
    expect(await answer.text()).toContain("The body broke off");
    expect(log).not.toHaveBeenCalled();
    log.mockRestore();
  },
);
