/**
 * What our rooms do, written for socket.io as its documentation has it: `io.emit` to all, presence in
 * the manner of its private-messaging example, `emitWithAck` to all with a time limit.
 */
import { createServer } from "node:http";
import { json } from "node:stream/consumers";
import { Server } from "socket.io";

const http = createServer(async (request, response) => {
  const { payload } = (await json(request)) as { payload: unknown };
  const results = await io.timeout(5_000).emitWithAck("publish", payload);
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ clientCount: results.length, results }));
});
const io = new Server(http, { transports: ["websocket"] });
let next = 0;
io.on("connection", (socket) => {
  socket.on("say", ({ id, text }) => {
    io.emit("said", { n: next++, id, text });
  });
  const { user: userId, room } = socket.handshake.query;
  if (typeof room === "string") {
    const self = { userId, username: userId, devices: 1, status: "online" };
    socket.data.self = self;
    socket.join(room);
    const here = [...(io.of("/").adapter.rooms.get(room) ?? [])];
    const users = here.map((id) => io.of("/").sockets.get(id)?.data.self);
    const totals = { totalUsers: users.length, totalConnections: users.length };
    socket.emit("presence.sync", { users, ...totals });
    socket.to(room).emit("presence.online", { ...self, timestamp: Date.now() });
    socket.on("disconnect", () => {
      io.to(room).emit("presence.offline", { userId, username: userId, timestamp: Date.now() });
    });
  }
});
http.listen(0, "127.0.0.1", () => {
  const address = http.address();
  process.send?.({ port: typeof address === "object" ? address?.port : undefined });
});
