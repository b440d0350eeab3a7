/** WebSockets without a client library, and the settings of clients that must notice a loss soon. */
import WebSocket from "ws";

/** Without compression, whose CPU would be the clients'. */
export class PlainWebSocket extends WebSocket {
  /** @param localAddress that it connects from: one has some 28 000 ports */
  constructor(url: string, protocols: string[] = [], localAddress?: string) {
    super(url, protocols, {
      ...{ perMessageDeflate: false, skipUTF8Validation: true },
      ...(localAddress !== undefined && { localAddress }),
    });
  }
}

/** For clients on a bad network: they notice a dead connection in 4 s and come back at once. */
export const IMPATIENT = {
  pingInterval: 2_000,
  pongTimeout: 2_000,
  connectionTimeout: 3_000,
  reconnection: {
    enabled: true,
    maxAttempts: 0,
    initialDelay: 200,
    maxDelay: 1_500,
    backoffMultiplier: 2,
  },
};

/** What a server sends before a socket may be used: nothing, our `hello`, or engine.io's handshake. */
export type Greeting = "none" | "hello" | "engine.io";

/**
 * Opens a socket, and answers what engine.io asks by itself.
 *
 * @param onMessage called with every message after the greeting
 */
export function openSocket(
  url: string,
  greeting: Greeting,
  onMessage: (bytes: Buffer, socket: WebSocket) => void,
): Promise<WebSocket> {
  const socket = new PlainWebSocket(url);
  return new Promise((resolve, reject) => {
    let isGreeted = greeting === "none";
    socket.once("error", reject);
    socket.once("open", () => isGreeted && resolve(socket));
    socket.on("message", (bytes: Buffer) => {
      if (greeting === "engine.io" && bytes.length === 1 && bytes[0] === 0x32) socket.send("3");
      else if (isGreeted) onMessage(bytes, socket);
      else {
        const text = bytes.toString();
        if (greeting === "engine.io" && text.startsWith("0")) socket.send("40");
        isGreeted = greeting === "hello" ? text.includes('"hello"') : text.startsWith("40");
        if (isGreeted) resolve(socket);
      }
    });
  });
}
