/** For tsc, never run: the client's events, acks and handlers by a room's event map. */
import type { VeraniClient } from "../../../client/client.ts";

interface ShopEvents {
  in: { buy: { sku: string } };
  out: { sold: { sku: string } };
  acks: { buy: { orderId: string } };
}
declare const client: VeraniClient<ShopEvents>;
declare const listener: () => void;

client.emitWithAck("buy", { sku: "a" }) satisfies Promise<{ orderId: string }>;
// @ts-expect-error the ack has no such field
(await client.emitWithAck("buy", { sku: "a" })).id;
// @ts-expect-error the data is missing
client.emitWithAck("buy");

client.off("sold", listener);
client.off("error", listener);
// @ts-expect-error no such event to clients
client.off("solt", listener);
// @ts-expect-error an event from clients
client.off("buy", listener);

// Without an event map, any event.
declare const untyped: VeraniClient;
declare const name: string;
untyped.off(name, listener);
