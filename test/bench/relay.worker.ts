/** sync-cf as it comes, for comparison: no check, its own names. */
import { makeDurableObject, makeWorker } from "@livestore/sync-cf/cf-worker";

export class BareRelay extends makeDurableObject({ storage: { _tag: "d1", binding: "DB" } }) {}
export default makeWorker<{ BARE: never }>({ syncBackendBinding: "BARE" });
