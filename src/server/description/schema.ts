import * as z from "zod/mini";
import type { Schema } from "../../http/describe.ts";

/** A JSON Schema, as both documents hold it. */
export interface JsonSchema {
  [keyword: string]: unknown;
  properties?: Record<string, JsonSchema>;
  required?: string[];
}

type Options = NonNullable<Parameters<typeof z.toJSONSchema>[1]>;

/** A schema of a contract as JSON Schema, without the `$schema` of a whole document. */
export function toJsonSchema(schema: Schema, options: Options): JsonSchema {
  const { $schema: _, ...json } = z.toJSONSchema(schema, options);
  return json as JsonSchema;
}

/** An object that has these properties and no others. */
export function closedObject(
  properties: Record<string, JsonSchema>,
  required: string[],
): JsonSchema {
  return { type: "object", properties, required, additionalProperties: false };
}
