/** For tsc, never run: the codes of errors, ours and the app's. */
import type { CodesOf, ErrorOf, ErrorPayload, VeraniClient } from "../../../client/client.ts";
import { AppError, type ErrorCode, RollcallError } from "../../../src/wire/errors.ts";

class ShopError extends AppError<"out_of_stock" | "closed"> {}
interface ShopEvents {
  in: { buy: { sku: string } };
  out: { sold: { sku: string } };
  errors: "out_of_stock" | "closed";
}
interface ChatEvents {
  in: { say: { text: string } };
  out: { said: { text: string } };
}

new ShopError("out_of_stock", "Sold out", { status: 409, path: "sku" }).code satisfies
  | "out_of_stock"
  | "closed";
// @ts-expect-error not a code of the shop
new ShopError("sold_out", "Sold out");
new AppError("out_of_stock", "Sold out").status satisfies number;
// @ts-expect-error a code of ours: throw a RollcallError
new AppError("conflict", "Taken");
new RollcallError("conflict", "Taken");
// @ts-expect-error not in the closed list: throw an AppError
new RollcallError("out_of_stock", "Sold out");

declare const shop: VeraniClient<ShopEvents>;
shop.on("error", ({ code, message, status }) => {
  message satisfies string;
  status satisfies number | undefined;
  if (code === "out_of_stock" || code === "rate_limited") return;
  // @ts-expect-error neither a code of ours nor of the shop
  if (code === "sold_out") return;
});
try {
  await shop.emitWithAck("buy", { sku: "a" });
} catch (error) {
  const { code, path } = error as ErrorOf<ShopEvents>;
  path satisfies string | undefined;
  code satisfies CodesOf<ShopEvents> satisfies ErrorCode | "out_of_stock" | "closed";
  // @ts-expect-error neither a code of ours nor of the shop
  if (code === "sold_out") code;
}

// A room that declares no codes has ours only.
declare const chat: VeraniClient<ChatEvents>;
chat.on("error", (data) => data satisfies ErrorPayload<ErrorCode>);

// Without an event map, any code may come.
declare const untyped: VeraniClient;
untyped.on("error", ({ code }) => code === "out_of_stock");
declare const thrown: unknown;
if (thrown instanceof RollcallError) thrown.code === "out_of_stock";
