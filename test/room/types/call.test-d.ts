/** For tsc, never run: the names, data and results of calls. */
import { z } from "zod";
import { type CallTarget, type ConnectionMeta, call, defineRoom } from "../../../src/index.ts";

const tally = defineRoom<ConnectionMeta, Env>({ name: "tally" })
  .call("add", z.number(), (_actor, n) => n + 1)
  .call("list", z.undefined(), async () => ["x"]);
declare const stub: CallTarget;

call(stub, tally).add(3) satisfies Promise<number>;
call<typeof tally>(stub).list() satisfies Promise<string[]>;
// @ts-expect-error the call gives a number
call(stub, tally).add(3) satisfies Promise<string>;
// @ts-expect-error the call gives texts
call<typeof tally>(stub).list() satisfies Promise<number[]>;
// @ts-expect-error a call that takes a number
call(stub, tally).add("x");
// @ts-expect-error the data is missing
call(stub, tally).add();
// @ts-expect-error a call that takes nothing
call(stub, tally).list("x");
// @ts-expect-error no such call
call(stub, tally).sub;
// @ts-expect-error no such call
call<typeof tally>(stub).ad;

// @ts-expect-error the room has a call of this name
tally.call("add", z.number(), (_actor, n) => n);
// @ts-expect-error a promise would be made of the calls
tally.call("then", z.number(), (_actor, n) => n);
