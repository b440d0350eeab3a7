import * as z from "zod/mini";
import { heartbeat } from "./contract.ts";

/** Events of the device contract: a watcher only listens. */
export const deviceEvents = {
  in: {},
  out: {
    "device.sync": z.object({ devices: z.array(heartbeat) }),
    "device.update": heartbeat,
  },
};
export interface DeviceEvents {
  in: object;
  out: { [K in keyof typeof deviceEvents.out]: z.infer<(typeof deviceEvents.out)[K]> };
}
