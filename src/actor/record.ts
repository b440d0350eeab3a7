import type { StandardSchemaV1 } from "@standard-schema/spec";

/** What a stored shape is made of. */
export interface RecordDefinition<T extends object> {
  /**
   * The version this code writes. 1 is the shape as it was stored before records carried a version:
   * a value without one is of version 1.
   */
  version: number;
  /** Checks the fields that this version knows, at once. It may leave out those it does not know. */
  schema: StandardSchemaV1<unknown, T>;
  /** `migrations[n]` turns the fields of version n into those of version n + 1. */
  migrations?: Record<number, (fields: Record<string, unknown>) => Record<string, unknown>>;
  /**
   * Version 1 is the bare value of this field, not an object. It is written bare while no other field
   * is known, so that the release that knows only the bare form still reads it.
   */
  bare?: keyof T & string;
  /** The field that holds the version; default `v`. */
  versionKey?: string;
}

/**
 * A stored shape with a version. At every deploy the release before, or after, reads what this one
 * wrote. So a new version may only add fields, or come with a migration once no older release runs;
 * a reader keeps what it does not know.
 */
export interface RecordType<T extends object> {
  /**
   * A stored value as a record; undefined when it is none. Fields that this version does not know,
   * a newer version number among them, stay on the returned object, and so in what is made of it
   * with a spread and written again.
   */
  read(stored: unknown): T | undefined;
  /** The value to store for `record`, with its version. */
  write(record: T): unknown;
}

function isFields(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Declares a stored shape.
 *
 * @example
 * const note = defineRecord({ version: 1, schema: z.object({ text: z.string() }) });
 * const known = note.read(storage.kv.get("note"));
 * storage.kv.put("note", note.write({ ...known, text: "changed" }));
 */
export function defineRecord<T extends object>(definition: RecordDefinition<T>): RecordType<T> {
  const { version, schema, migrations = {}, bare, versionKey = "v" } = definition;

  function fieldsOf(stored: unknown): Record<string, unknown> | undefined {
    if (isFields(stored)) return stored;
    return bare !== undefined && stored !== undefined && stored !== null
      ? { [bare]: stored }
      : undefined;
  }

  return {
    read(stored) {
      let fields = fieldsOf(stored);
      if (!fields) return undefined;
      const written = fields[versionKey] ?? 1;
      if (typeof written !== "number" || !Number.isInteger(written) || written < 1)
        return undefined;
      for (let from = written; from < version; from++) {
        const migrate = migrations[from];
        if (migrate) fields = { ...migrate(fields), [versionKey]: from + 1 };
      }
      const checked = schema["~standard"].validate(fields);
      if (checked instanceof Promise) throw new TypeError("A record's schema must check at once");
      return checked.issues ? undefined : { ...fields, ...checked.value };
    },
    write(record) {
      const { [versionKey]: written, ...fields } = record as Record<string, unknown>;
      if (bare !== undefined && written === undefined && Object.keys(fields).length === 1) {
        return fields[bare];
      }
      const kept = typeof written === "number" && written > version ? written : version;
      return { ...fields, [versionKey]: kept };
    },
  };
}
