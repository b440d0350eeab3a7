/** For tsc, never run: what `authenticate` gives is what the room's events have of a user. */
import { z } from "zod";
import { type PresenceEvents, presence } from "../../../rooms/presence/index.ts";

interface User {
  colour: string;
}
type EventsOf<R extends { readonly "~events"?: unknown }> = NonNullable<R["~events"]>;
type UserOf<E> = E extends PresenceEvents<infer _S, infer _T, infer U> ? U : never;

const board = presence<object, User>({
  authenticate: () => ({ userId: "u", user: { colour: "red" } }),
  onChange: ({ joins }) => joins[0]?.user?.colour satisfies string | undefined,
});
declare const boarder: UserOf<EventsOf<typeof board>>;
boarder satisfies User;
// @ts-expect-error the user's colour is missing
presence<object, User>({ authenticate: () => ({ userId: "u", user: {} }) });

// The type of the user comes from what `authenticate` gives.
const crew = presence({ authenticate: () => ({ userId: "u", user: { rank: 3 } }) });
declare const mate: UserOf<EventsOf<typeof crew>>;
mate.rank satisfies number;
// @ts-expect-error no such field of a user
mate.colour;

// Or from the schema.
const schema = z.object({ colour: z.string() });
const club = presence({
  user: schema,
  authenticate: () => ({ userId: "u", user: { colour: "red" } }),
});
declare const member: UserOf<EventsOf<typeof club>>;
member satisfies User;
// @ts-expect-error the schema wants another type
presence({ user: schema, authenticate: () => ({ userId: "u", user: { colour: 1 } }) });
