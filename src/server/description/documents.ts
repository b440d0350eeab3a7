import { describeDevices } from "../../../rooms/devices/contract.ts";
import { describeFanout, describePeople } from "../../../rooms/fanout/contract.ts";
import { describeMoods } from "../../../rooms/moods/contract.ts";
import { describePresence } from "../../../rooms/presence/contract.ts";
import { describeWorkspace } from "../../../rooms/workspace/contract.ts";
import type { SystemDescription } from "../../http/describe.ts";
import { PROTOCOL_VERSION } from "../../wire/version.ts";
import { type AsyncApi, toAsyncApi } from "./asyncapi.ts";
import { describeDebug } from "./debug.ts";
import { type OpenApi, toOpenApi } from "./openapi.ts";
import { describeUsers } from "./users.ts";

const TITLE = "Rollcall";

/** The systems that the service offers, in the order of the documents. */
const SYSTEMS: (() => SystemDescription)[] = [
  describePresence,
  describeDevices,
  describeFanout,
  describeMoods,
  describeWorkspace,
  describePeople,
  describeUsers,
  describeDebug,
];

/** Both descriptions of the service. They are made at build time (`scripts/assets.ts`). */
export function describeService(): { openapi: OpenApi; asyncapi: AsyncApi } {
  const systems = SYSTEMS.map((describe) => describe());
  return {
    openapi: toOpenApi(TITLE, PROTOCOL_VERSION, systems),
    asyncapi: toAsyncApi(TITLE, PROTOCOL_VERSION, systems),
  };
}
