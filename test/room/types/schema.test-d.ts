/** For tsc, never run: which schemas an event takes. */
import { z } from "zod";
import { type ConnectionMeta, defineRoom } from "../../../src/index.ts";

interface ChatEvents {
  in: { say: { text: string; to?: string }; rate: { stars: number } };
  out: object;
}
const chat = defineRoom<ConnectionMeta, Env, ChatEvents>({ name: "chat" });

// @ts-expect-error the event has no txt, and its text is missing
chat.on("say", z.object({ txt: z.string() }), () => {});
// @ts-expect-error the event's text is a string
chat.on("say", z.object({ text: z.number() }), () => {});
// @ts-expect-error the schema is another event's
chat.on("rate", z.object({ text: z.string() }), () => {});
// @ts-expect-error the transform takes what no client sends
chat.on("rate", z.object({ stars: z.string().transform(Number).pipe(z.string()) }), () => {});

chat.on("say", z.object({ text: z.string(), to: z.string().optional() }), (_ctx, data) => {
  data.text satisfies string;
  // @ts-expect-error the schema gives no such field
  data.txt;
});
// Narrower than the event.
chat.on("say", z.object({ text: z.enum(["yes", "no"]) }), (_ctx, { text }) => {
  text satisfies "yes" | "no";
});
// A transform of what the event has: the handler gets its output.
chat.on("say", z.object({ text: z.string().transform((text) => text.length) }), (_ctx, data) => {
  data.text satisfies number;
});
chat.on("rate", z.object({ stars: z.coerce.string() }), (_ctx, { stars }) => {
  stars satisfies string;
});

// Without an event map, any schema.
const untyped = defineRoom({ name: "untyped" });
untyped.on("anything", z.object({ n: z.number() }), (_ctx, { n }) => n satisfies number);
