/** The clients of the publish-to-ack benchmark: they answer every envelope at once. */
import { answerParent } from "../kit/processes.ts";
import { type Greeting, openSocket } from "../kit/sockets.ts";

export interface Task {
  url: string;
  sockets: number;
  greeting: Greeting;
  /** Sent once connected. */
  hello?: string;
}

const RESULT = { ok: true };

/** The ack of an envelope, or of an event of socket.io. */
function ackOf(text: string): string | undefined {
  const [, id] = /^42(\d+)\[/.exec(text) ?? [];
  if (id) return `43${id}${JSON.stringify([RESULT])}`;
  const { envelopeId } = JSON.parse(text) as { envelopeId?: string };
  return envelopeId && JSON.stringify({ type: "ack", envelopeId, result: RESULT });
}

answerParent(async ({ url, sockets, greeting, hello }: Task) => {
  for (let i = 0; i < sockets; i++) {
    const opened = await openSocket(url, greeting, (bytes, socket) => {
      const ack = ackOf(String(bytes));
      if (ack) socket.send(ack);
    });
    if (hello) opened.send(hello);
  }
});
