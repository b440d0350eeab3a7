import type { StandardSchemaV1 } from "@standard-schema/spec";
import { RollcallError } from "../wire/errors.ts";

export type { StandardSchemaV1 } from "@standard-schema/spec";

/**
 * The output of a schema for `data`: at once, or as a promise where the schema needs time.
 *
 * @param at what `data` is, for the path of an error
 * @throws RollcallError `invalid_data`
 */
export function validate(schema: StandardSchemaV1, data: unknown, at?: string): unknown {
  const checked = schema["~standard"].validate(data);
  return checked instanceof Promise
    ? checked.then((result) => outputOf(result, at))
    : outputOf(checked, at);
}

function outputOf(result: StandardSchemaV1.Result<unknown>, at: string | undefined): unknown {
  if (!result.issues) return result.value;
  const issue = result.issues[0];
  const keys = issue?.path?.map((part) => String(typeof part === "object" ? part.key : part)) ?? [];
  const path = [...(at === undefined ? [] : [at]), ...keys].join(".");
  throw new RollcallError("invalid_data", issue?.message ?? "Invalid data", path || undefined);
}
