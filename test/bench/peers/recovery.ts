/** A socket.io server with connection state recovery, as its documentation has it: `io.emit` to all. */
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  connectionStateRecovery: { maxDisconnectionDuration: 120_000 },
});
let next = 0;
io.on("connection", (socket) => {
  socket.on("say", ({ id, text }) => {
    io.emit("said", { n: next++, id, text });
  });
});
http.listen(0, "127.0.0.1", () => {
  const address = http.address();
  if (address === null || typeof address === "string") throw new Error("no port to be had");
  process.send?.({ port: address.port });
});
