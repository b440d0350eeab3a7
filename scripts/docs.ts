/**
 * `npm run docs`: the documentation as a static site, in site/. TypeDoc makes it of the doc comments of all that
 * package.json exports, and of the pages that docs/README.md lists, in its order. A warning fails it: a broken
 * link, an export without a comment, a type that an export needs and that is not exported.
 *
 * `--out DIR` writes it to another folder.
 */
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  Application,
  Converter,
  type DocumentReflection,
  KindRouter,
  normalizePath,
  PageEvent,
  type Reflection,
} from "typedoc";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));
const INDEX = "docs/README.md";
/** Types that no app names, by their files: insides of the core, steps of inference, calls between our actors. */
const NOT_EXPORTED: Record<string, string[]> = {
  "client/client.ts": ["Received", "Token"],
  "client/plain.ts": ["Token"],
  "rooms/devices/contract.ts": ["Acceptance"],
  "rooms/devices/records.ts": ["DeviceMeta"],
  "rooms/devices/room.ts": ["defineDevices"],
  "rooms/devices/token.ts": ["claims"],
  "rooms/fanout/contract.ts": ["publication"],
  "rooms/fanout/meta.ts": ["FanoutEvents", "FanoutMeta"],
  "rooms/fanout/room.ts": ["defineFanout"],
  "src/shards/totals.ts": ["TotalCalls"],
  "rooms/presence/contract.ts": ["RoomPublication", "RoomPublishOutcome"],
  "rooms/presence/others.ts": ["ShardCalls"],
  "rooms/presence/roster.ts": ["SingleEvent"],
  "rooms/presence/tracking.ts": ["ChangesPage"],
  "rooms/workspace/routes.ts": ["WorkspaceActor"],
  "src/actor/attachment.ts": ["SessionState"],
  "src/actor/call.ts": ["CallableRoom", "CallMap", "Calls"],
  "src/actor/limits.ts": ["Verdict"],
  "src/actor/liveness.ts": ["Deadline", "Peer"],
  "src/actor/log.ts": ["Entry", "Gap"],
  "src/actor/outbox.ts": ["Recipient"],
  "src/actor/room.ts": [
    ...["Awaitable", "CallHandler", "Fitting", "Handler", "NoCalls", "Returned", "TimerHandler"],
  ],
  "src/http/describe.ts": ["SystemDescription"],
  "src/metrics.ts": ["Metric"],
  "src/people/directory.ts": ["PersonState", "ReportAnswer", "RoomCalls"],
  "src/server/backend.ts": ["ChangeBase"],
  "src/wire/errors.ts": ["AppCode"],
  "src/wire/events.ts": ["AckOf", "Payload"],
  "src/wire/frames.ts": ["FrameLimits"],
  "src/wire/version.ts": ["Protocol"],
};

/** Members of types that are worked out, where no comment can stand. */
const NOT_DOCUMENTED = [
  ...["fetch", "emitToChannel", "emitToUser", "sendToUser", "broadcast", "getSessionCount"],
  ...["getConnectedUserIds", "cleanupStaleSessions", "inspect", "ingest"],
].map((name) => `rollcall.ActorHandlerClass.constructor.__type.${name}`);
NOT_DOCUMENTED.push("rollcall/rooms/fanout.authenticateByGrant.__type.can");

process.chdir(PROJECT);
const { out } = parseArgs({ options: { out: { type: "string", default: "site" } } }).values;

const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as {
  exports: Record<string, string | { types: string }>;
};
/** The modules by their files, which lie in dist/ where their sources lie in the project. */
const modules = new Map(
  Object.entries(exports).flatMap(([path, target]) => {
    if (typeof target === "string") return [];
    const source = target.types.replace(/^\.\/dist\//, "").replace(/\.d\.ts$/, ".ts");
    return [[normalizePath(join(PROJECT, source)), `rollcall${path.slice(1)}`]];
  }),
);

interface Page {
  path: string;
  title: string;
  group: string;
}

/** The index itself, and the links of each of its headings. */
function readPages(): Page[] {
  const pages: Page[] = [{ path: INDEX, title: "All pages", group: "Guides" }];
  let group = "";
  for (const line of readFileSync(INDEX, "utf8").split("\n")) {
    const [, heading] = /^## (.+)$/.exec(line) ?? [];
    const [, title, path] = /^- \[(.+?)\]\((.+?)\)/.exec(line) ?? [];
    if (heading) group = heading;
    if (title && path) pages.push({ path: join(dirname(INDEX), path), title, group });
  }
  return pages;
}

/** A page has the address of its file: docs/guides/chat.md is guides/chat.html. */
class PageRouter extends KindRouter {
  protected override getIdealBaseName(reflection: Reflection): string {
    const path = reflection.isDocument() && reflection.project.files.getReflectionPath(reflection);
    if (!path) return super.getIdealBaseName(reflection);
    return relative(PROJECT, path)
      .replace(/^docs\//, "")
      .replace(/\.md$/, "");
  }
}

const pages = readPages();
const app = await Application.bootstrap({
  name: "Rollcall",
  out,
  tsconfig: "tsconfig.docs.json",
  // `npm run check:types` does it, with the compiler that the project is written for.
  skipErrorChecking: true,
  router: "pages",
  entryPoints: [...modules.keys()],
  sortEntryPoints: false,
  readme: "README.md",
  projectDocuments: pages.map(({ path }) => path),
  groupOrder: [...new Set(pages.map(({ group }) => group)), "Modules", "*"],
  favicon: "examples/console/icon.svg",
  customCss: "scripts/docs.css",
  // Or Socket.IO would become a link.
  markdownItOptions: { html: true, linkify: false },
  navigation: { includeGroups: true },
  hideGenerator: true,
  headings: { readme: false, document: false },
  highlightLanguages: ["html", "js", "json", "jsonc", "sh", "sql", "toml", "ts", "tsx"],
  searchInComments: true,
  searchInDocuments: true,
  disableSources: true,
  excludePrivate: true,
  excludeInternal: true,
  excludeExternals: true,
  intentionallyNotExported: Object.entries(NOT_EXPORTED).flatMap(([file, names]) =>
    names.map((name) => `${file}:${name}`),
  ),
  intentionallyNotDocumented: NOT_DOCUMENTED,
  requiredToBeDocumented: [
    "Module",
    "Class",
    "Interface",
    "TypeAlias",
    "Variable",
    "CallSignature",
  ],
  validation: { notDocumented: true },
});

app.renderer.defineRouter("pages", PageRouter);
app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_context, document: DocumentReflection) => {
  const { files } = document.project;
  const path = files.getReflectionPath(document) ?? "";
  const page = pages.find((page) => normalizePath(join(PROJECT, page.path)) === path);
  if (!page) return;
  document.name = page.title;
  document.frontmatter.group = page.group;
  // A link to a folder is one to its README, as on GitHub.
  if (!path.endsWith("/README.md")) return;
  const folder = dirname(path);
  for (const link of [folder, `${folder}/`]) {
    files.registerReflectionPath(normalizePath(link), document);
  }
});

// For screen readers and keyboards: TypeDoc names no main part, and a wide table scrolls.
app.renderer.on(PageEvent.END, (page) => {
  if (page.contents === undefined) return;
  page.contents = page.contents
    .replace('class="col-content"', '$& role="main"')
    .replaceAll("<table>", '<table tabindex="0">');
});

const entryPoints = app.getEntryPoints() ?? [];
for (const entry of entryPoints) {
  entry.displayName = modules.get(normalizePath(entry.sourceFile.fileName)) ?? entry.displayName;
}
const project = app.converter.convert(entryPoints);
app.validate(project);
await app.generateOutputs(project);
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exitCode = 1;
