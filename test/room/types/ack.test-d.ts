/** For tsc, never run: what a handler may return as the ack. */
import { z } from "zod";
import { type ConnectionMeta, defineRoom } from "../../../src/index.ts";

interface ShopEvents {
  in: { buy: { sku: string }; look: object };
  out: object;
  acks: { buy: { orderId: string } };
}
const shop = defineRoom<ConnectionMeta, Env, ShopEvents>({ name: "shop" });
const order = z.object({ sku: z.string() });

shop.on("buy", (_ctx, { sku }) => ({ orderId: sku }));
shop.on("buy", async (_ctx, { sku }) => ({ orderId: sku }));
shop.on("buy", order, (_ctx, { sku }) => ({ orderId: sku }));
// @ts-expect-error the field has another name
shop.on("buy", () => ({ id: "1" }));
// @ts-expect-error the field has another type
shop.on("buy", () => ({ orderId: 1 }));
// @ts-expect-error a promise of the wrong shape
shop.on("buy", async () => ({ orderId: 1 }));
// @ts-expect-error nothing is returned
shop.on("buy", () => {});
// @ts-expect-error the field has another type, behind a schema
shop.on("buy", order, () => ({ orderId: 1 }));

// An event without a declared ack, and any event of a room without a map, take any.
shop.on("look", () => 1);
shop.on("*", ({ frame }) => frame.type);
defineRoom({ name: "untyped" }).on("anything", () => ({ any: "ack" }));
