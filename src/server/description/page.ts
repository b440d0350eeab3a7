import { html, raw } from "hono/html";
import type { AsyncApi } from "./asyncapi.ts";
import type { OpenApi, Operation } from "./openapi.ts";
import type { JsonSchema } from "./schema.ts";

type Html = ReturnType<typeof html>;

const STYLE = `
:root { color-scheme: light dark; --ink: #1d2330; --dim: #5b6475; --paper: #fbfbfd; --card: #fff;
  --line: #dfe3ea; --accent: #3a5ccc; --get: #0b6e4f; --post: #8a4b08; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --dim: #9aa4b8; --paper: #12151c;
  --card: #1a1f29; --line: #2c3442; --accent: #8fa8ff; --get: #5fd3a6; --post: #f0b26b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 6rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--accent); } h1 { margin: 0; } h2 { margin: 3rem 0 .25rem; } h2 + p { margin: 0 0 1rem; }
p, dd { color: var(--dim); } nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; }
summary { cursor: pointer; padding: .6rem .8rem; } summary span { color: var(--dim); }
details > div { padding: 0 .8rem .8rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; } h4 { font-size: .85rem; margin: .75rem 0 .25rem; } dl { margin: 0; } dt { margin-top: .4rem; } dd { margin: 0 0 0 1rem; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; } pre { margin: .25rem 0; padding: .6rem .8rem;
  white-space: pre-wrap; background: var(--paper); border: 1px solid var(--line); border-radius: .35rem; }
.get { color: var(--get); font-weight: 700; } .post { color: var(--post); font-weight: 700; }`;

type Schemas = Record<string, JsonSchema>;

/** A schema as a TypeScript type; what TypeScript cannot express follows in parentheses. */
export function shapeOf(schema: JsonSchema | undefined, schemas: Schemas, indent = ""): string {
  if (!schema) return "unknown";
  const shape = (inner: unknown, at = indent) => shapeOf(inner as JsonSchema, schemas, at);
  const { $ref, const: only, enum: values, type, items } = schema;
  if (typeof $ref === "string") return shape(schemas[$ref.split("/").at(-1) ?? ""]);
  if (only !== undefined) return JSON.stringify(only);
  if (Array.isArray(values)) return values.map((value) => JSON.stringify(value)).join(" | ");
  const variants = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(variants)) return variants.map((variant) => shape(variant)).join(" | ");
  if (Array.isArray(schema.allOf)) return schema.allOf.map((part) => shape(part)).join(" & ");
  if (type === "array") return `Array<${shape(items)}>`;
  if (type !== "object" && !schema.properties) return `${type ?? "unknown"}${limitsOf(schema)}`;

  const inner = `${indent}  `;
  const required = new Set(schema.required);
  const lines = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const key = /^\w+$/.test(name) ? name : JSON.stringify(name);
    const note = typeof property.description === "string" ? `  // ${property.description}` : "";
    return `${inner}${key}${required.has(name) ? "" : "?"}: ${shape(property, inner)}${note}`;
  });
  const { additionalProperties: rest, propertyNames } = schema;
  if (rest !== undefined && rest !== false) {
    const name = propertyNames === undefined ? "string" : shape(propertyNames);
    lines.push(`${inner}[${name}]: ${rest === true ? "unknown" : shape(rest, inner)}`);
  }
  return lines.length === 0 ? "{}" : `{\n${lines.join("\n")}\n${indent}}`;
}

function limitsOf(schema: JsonSchema): string {
  const { format, pattern } = schema;
  const least = schema.minimum ?? schema.minLength;
  const most = schema.maximum ?? schema.maxLength;
  // zod bounds an integer by what a number can hold.
  const top = most === Number.MAX_SAFE_INTEGER ? undefined : most;
  const bottom = least === Number.MIN_SAFE_INTEGER ? undefined : least;
  const range = bottom === undefined && top === undefined ? "" : `${bottom ?? ""}…${top ?? ""}`;
  const words = [range, format ?? (pattern === undefined ? "" : `/${pattern}/`)].filter(Boolean);
  return words.length === 0 ? "" : ` (${words.join(", ")})`;
}

/** Text in which code stands between backticks. */
function prose(text: string | undefined): Html[] {
  return (text ?? "")
    .split("`")
    .map((part, i) => (i % 2 === 1 ? html`<code>${part}</code>` : html`${part}`));
}

function block(title: string, code: string, heading: "h3" | "h4" = "h3"): Html {
  const name = heading === "h3" ? html`<h3>${title}</h3>` : html`<h4><code>${title}</code></h4>`;
  return html`${name}<pre><code>${code}</code></pre>`;
}

type Content = Operation["responses"][string]["content"];

function renderContent(content: Content, title: string, schemas: Schemas): Html[] {
  return Object.entries(content ?? {}).map(([type, { schema }]) =>
    block(`${title}, ${type}`, shapeOf(schema, schemas)),
  );
}

function renderOperation(
  method: string,
  path: string,
  operation: Operation,
  schemas: Schemas,
): Html {
  const { summary, description, security, parameters = [], requestBody, responses } = operation;
  const schemes = [...new Set(security?.flatMap((scheme) => Object.keys(scheme)))];
  return html`<details>
<summary><code><b class="${method}">${method.toUpperCase()}</b> ${path}</code> <span>${prose(summary)}</span></summary>
<div>
${description && html`<p>${prose(description)}</p>`}
${schemes.length > 0 && html`<p>Security: ${schemes.join(", or ")}</p>`}
${
  parameters.length > 0 &&
  html`<h3>Parameters</h3><dl>${parameters.map(
    (
      parameter,
    ) => html`<dt><code>${parameter.name}${parameter.required ? "" : "?"}: ${shapeOf(parameter.schema, schemas)}</code> (${parameter.in})</dt>
<dd>${prose(parameter.description)}</dd>`,
  )}</dl>`
}
${renderContent(requestBody?.content, "Body", schemas)}
${Object.entries(responses).map(
  ([status, answer]) =>
    html`<h3>${status}: ${prose(answer.description)}</h3>${
      Number(status) < 300 && renderContent(answer.content, "Answer", schemas)
    }`,
)}
</div></details>`;
}

function renderChannel(id: string, asyncapi: AsyncApi): Html {
  const channel = asyncapi.channels[id];
  const { ws } = channel?.bindings ?? {};
  const messages = (direction: string) =>
    Object.keys(channel?.messages ?? {})
      .filter((key) => key.startsWith(`${id}.${direction}.`))
      .map((key) => asyncapi.components.messages[key])
      .map((message) => message && block(message.name, shapeOf(message.payload, {}), "h4"));
  const received = messages("in");
  return html`<details>
<summary><code>${channel?.address}</code> <span>${channel?.title}</span></summary>
<div>
<p>${prose(channel?.description)}</p>
${ws && block("Parameters", shapeOf(ws.query, {}))}
${received.length > 0 && html`<h3>From clients</h3>${received}`}
<h3>To clients</h3>${messages("out")}
</div></details>`;
}

/** Both descriptions on one page of plain HTML: no script, nothing to load, readable on paper too. */
export function renderDocs(openapi: OpenApi, asyncapi: AsyncApi): Html {
  const { tags, components } = openapi;
  const { schemas, securitySchemes } = components;
  const operations = Object.entries(openapi.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ method, path, operation })),
  );
  const idOf = (tag: string) => tag.toLowerCase().replaceAll(" ", "-");
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>${openapi.info.title}: the API</title>
<style>${raw(STYLE)}</style>
</head>
<body>
<header>
<h1>${openapi.info.title}: the API</h1>
<p>For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1) and <a href="/asyncapi.json">/asyncapi.json</a> (AsyncAPI 3).</p>
</header>
<nav aria-label="Sections"><ul>
${tags.map(({ name }) => html`<li><a href="#${idOf(name)}">${name}</a></li>`)}
<li><a href="#events">Sockets and streams</a></li>
<li><a href="#security">Security</a></li>
</ul></nav>
<main>
${tags.map(
  ({ name, description }) => html`<h2 id="${idOf(name)}">${name}</h2><p>${description}</p>
${operations
  .filter(({ operation }) => operation.tags.includes(name))
  .map(({ method, path, operation }) => renderOperation(method, path, operation, schemas))}`,
)}
<h2 id="events">Sockets and streams</h2>
<p>The messages at each address, as they stand on the wire.</p>
${Object.keys(asyncapi.channels).map((id) => renderChannel(id, asyncapi))}
<h2 id="security">Security</h2>
<dl>${Object.entries(securitySchemes).map(
    ([name, { description }]) => html`<dt><code>${name}</code></dt><dd>${prose(description)}</dd>`,
  )}</dl>
</main>
</body>
</html>`;
}
