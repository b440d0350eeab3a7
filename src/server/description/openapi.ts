import {
  type Content,
  describeErrorBody,
  type RouteDescription,
  type Schema,
  type SystemDescription,
} from "../../http/describe.ts";
import { type JsonSchema, toJsonSchema } from "./schema.ts";
import { SECURITY } from "./security.ts";

export interface Parameter {
  name: string;
  in: "path" | "query" | "header";
  required: boolean;
  description?: string;
  schema: JsonSchema;
}

type Body = Record<string, { schema: JsonSchema }>;

export interface Operation {
  summary: string;
  description?: string;
  tags: string[];
  security?: Record<string, string[]>[];
  parameters?: Parameter[];
  requestBody?: { description?: string; required: true; content: Body };
  responses: Record<string, { description: string; content?: Body }>;
}

export interface OpenApi {
  openapi: "3.1.0";
  info: { title: string; version: string; description: string; license: object };
  /** Empty: the Worker that gives the document adds its own address. */
  servers: { url: string }[];
  tags: { name: string; description: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: {
    securitySchemes: typeof SECURITY;
    schemas: Record<string, JsonSchema>;
  };
}

/** The schemas of `components` by their zod schema, which is how routes refer to them. */
class Components {
  readonly schemas: Record<string, JsonSchema> = {};
  readonly #names: Map<Schema, string>;

  constructor(systems: SystemDescription[]) {
    const named = systems.flatMap(({ components = {} }) => Object.entries(components));
    this.#names = new Map(named.map(([name, schema]) => [schema, name]));
    this.#names.set(describeErrorBody(), "Refusal");
  }

  /** A schema, or a reference to the component that it is. */
  use(schema: Schema, io: "input" | "output"): JsonSchema {
    const name = this.#names.get(schema);
    if (name === undefined) return this.#convert(schema, io);
    // Components are converted at their first use, since a default is optional in requests only.
    this.schemas[name] ??= this.#convert(schema, io);
    return { $ref: `#/components/schemas/${name}` };
  }

  #convert(schema: Schema, io: "input" | "output"): JsonSchema {
    return toJsonSchema(schema, {
      io,
      override: ({ zodSchema, jsonSchema }) => {
        if (zodSchema !== schema && this.#names.has(zodSchema)) {
          for (const key of Object.keys(jsonSchema)) delete jsonSchema[key];
          Object.assign(jsonSchema, this.use(zodSchema, io));
        }
        // A client must expect fields that a later version adds.
        if (jsonSchema.additionalProperties === false) delete jsonSchema.additionalProperties;
        // zod limits an integer to what a number can hold.
        if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
        if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
      },
    });
  }

  body(content: Content, io: "input" | "output"): Body {
    return Object.fromEntries(
      Object.entries(content).map(([type, schema]) => [type, { schema: this.use(schema, io) }]),
    );
  }

  /** The fields of an object as parameters. */
  parameters(schema: Schema | undefined, place: Parameter["in"]): Parameter[] {
    if (!schema) return [];
    const { properties = {}, required = [] } = this.#convert(schema, "input");
    return Object.entries(properties).map(([name, property]) => ({
      name,
      in: place,
      required: required.includes(name),
      ...(typeof property.description === "string" && { description: property.description }),
      schema: property,
    }));
  }
}

function toOperation(route: RouteDescription, tag: string, components: Components): Operation {
  const { summary, description, security, body } = route;
  const parameters = [
    ...components.parameters(route.params, "path"),
    ...components.parameters(route.query, "query"),
    ...components.parameters(route.headers, "header"),
  ];
  return {
    summary,
    ...(description !== undefined && { description }),
    tags: [tag],
    ...(security && { security: security.map((name) => ({ [name]: [] })) }),
    ...(parameters.length > 0 && { parameters }),
    ...(body && {
      requestBody: {
        ...(body.description !== undefined && { description: body.description }),
        required: true,
        content: components.body(body.content, "input"),
      },
    }),
    responses: Object.fromEntries(
      Object.entries(route.responses).map(([status, { description, content }]) => [
        status,
        { description, ...(content && { content: components.body(content, "output") }) },
      ]),
    ),
  };
}

/** The HTTP routes of these systems as OpenAPI 3.1. */
export function toOpenApi(title: string, version: string, systems: SystemDescription[]): OpenApi {
  const components = new Components(systems);
  const paths: OpenApi["paths"] = {};
  for (const { tag, routes } of systems) {
    for (const route of routes) {
      paths[route.path] ??= {};
      Object.assign(paths[route.path] ?? {}, {
        [route.method]: toOperation(route, tag.name, components),
      });
    }
  }
  return {
    openapi: "3.1.0",
    info: {
      title,
      version,
      description: "The HTTP routes. Sockets and streams are described in `/asyncapi.json`.",
      license: { name: "MIT", url: "https://opensource.org/license/mit" },
    },
    servers: [],
    tags: systems.map(({ tag }) => tag),
    paths,
    components: { securitySchemes: SECURITY, schemas: components.schemas },
  };
}
