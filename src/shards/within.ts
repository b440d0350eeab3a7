import { type CallTarget, callIngest } from "../actor/call.ts";
import { RollcallError } from "../wire/errors.ts";

/**
 * Calls another actor of the room, which must not block this one for long.
 *
 * @throws RollcallError `timeout` when it does not answer within `limitMs`, or what it refused with
 */
export async function callWithin(
  limitMs: number,
  stub: CallTarget,
  name: string,
  data: unknown,
): Promise<unknown> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new RollcallError("timeout", "An actor did not answer in time")),
    limitMs,
  );
  try {
    return await Promise.race([callIngest(stub, name, data), late]);
  } finally {
    clearTimeout(timer);
  }
}
