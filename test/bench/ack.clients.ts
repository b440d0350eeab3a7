/** The clients of the publish-to-ack benchmark: they answer every envelope at once. */
import { once } from "node:events";
import WebSocket from "ws";

export interface Task {
  url: string;
  sockets: number;
  /** Sent once connected. */
  hello?: string;
}

const RESULT = { ok: true };

/** What answers a message: an envelope's ack, or what engine.io wants to hear. */
function answerTo(text: string): string | undefined {
  if (text.startsWith("{")) {
    const { envelopeId } = JSON.parse(text) as { envelopeId?: string };
    return envelopeId && JSON.stringify({ type: "ack", envelopeId, result: RESULT });
  }
  if (text.startsWith("0")) return "40";
  if (text === "2") return "3";
  const [, id] = /^42(\d+)\[/.exec(text) ?? [];
  return id && `43${id}${JSON.stringify([RESULT])}`;
}

process.on("message", async ({ url, sockets, hello }: Task) => {
  for (let i = 0; i < sockets; i++) {
    const ws = new WebSocket(url, { perMessageDeflate: false });
    ws.on("message", (data) => {
      const answer = answerTo(String(data));
      if (answer) ws.send(answer);
    });
    await once(ws, "open");
    if (hello) ws.send(hello);
  }
  process.send?.({});
});
