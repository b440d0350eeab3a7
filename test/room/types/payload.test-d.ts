/** For tsc, never run: the data of events from the server, on each way out. */
import {
  type ConnectionMeta,
  createActorHandler,
  defineRoom,
  type VeraniActor,
} from "../../../src/index.ts";

interface ChatEvents {
  in: { say: { text: string } };
  out: { said: { text: string }; cleared: undefined; hinted: { text: string } | undefined };
}
const chat = defineRoom<ConnectionMeta, Env, ChatEvents>({ name: "chat" });
class Chat extends createActorHandler(chat) {}
declare const actor: VeraniActor<ConnectionMeta, Env, ChatEvents>;
const said = { text: "hi" };

chat.on("say", ({ emit, toUser, toChannel }) => {
  emit.emit("said", said);
  emit.emit("cleared");
  emit.emit("hinted");
  // @ts-expect-error the data is missing
  emit.emit("said");
  // @ts-expect-error a field is missing
  emit.emit("said", {});
  emit.to("anna").emit("said", said);
  // @ts-expect-error the data is missing
  emit.to("anna").emit("said");
  // @ts-expect-error the data is missing
  toUser("anna").emit("said");
  // @ts-expect-error the data is missing
  toChannel("default").emit("said");
  emit.emitWithAck("said", said, { timeoutMs: 10 }) satisfies Promise<unknown>;
  emit.emitWithAck("cleared", undefined, { timeoutMs: 10 });
  // @ts-expect-error the data is missing
  emit.emitWithAck("said");
});

actor.emit.emit("said", said);
// @ts-expect-error the data is missing
actor.emit.emit("said");
actor.emit.to("default").emit("cleared");
// @ts-expect-error the data is missing
actor.emit.to("default").emit("said");
// @ts-expect-error the data is missing
actor.emit.toUser("anna").emit("said");
// @ts-expect-error a field has another type
actor.emit.where(() => true).emit("said", { text: 1 });

actor.emitToChannel("default", "said", said) satisfies number;
actor.emitToChannel("default", "cleared");
// @ts-expect-error the data is missing
actor.emitToChannel("default", "said");
// @ts-expect-error no such event
actor.emitToChannel("default", "sad", said);
actor.emitToUser("anna", "said", said);
// @ts-expect-error the data is missing
actor.emitToUser("anna", "said");

// Over RPC.
Chat.get("x").emitToChannel("default", "said", said) satisfies Promise<number>;
// @ts-expect-error the data is missing
Chat.get("x").emitToChannel("default", "said");
// @ts-expect-error a field is missing
Chat.get("x").emitToUser("anna", "said", {});
// @ts-expect-error no such event
Chat.get("x").emitToUser("anna", "sad", said);

// Written for Verani: any event, with any data or none.
declare const verani: VeraniActor;
verani.emit.to("default").emit("anything");
verani.emitToChannel("default", "anything", { n: 1 });
declare const name: string;
verani.emitToUser("anna", name);
createActorHandler(defineRoom({ name: "untyped" }))
  .get("x")
  .emitToChannel("default", name);
