/**
 * `npm pack ./create`: the templates of create-rollcall, in create/dist/. A template is put together from
 * examples, from what templates share, and from its own folder in create/templates/. A later part
 * replaces files of an earlier one.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const PROJECT = fileURLToPath(new URL("..", import.meta.url));

/** For one wrangler, and one workerd, below the plugin: the version that it asks for itself. */
const CLOUDFLARE = { "@cloudflare/vite-plugin": "1.64.0", wrangler: "4.151.0" };

interface Template {
  /** Files of the project, by their paths in the template. */
  files: Record<string, string>;
  /** Packages beside `rollcall`, in the versions that this project tests with. */
  dependencies: string[];
  devDependencies?: Record<string, string>;
}

const LOGIN = Object.fromEntries(
  ["page/login.ts", "worker/login.ts", "test/login.ts", "vitest.config.ts"].map((path) => [
    path,
    `create/templates/login/${path}`,
  ]),
);
const CURSORS = ["app.tsx", "cursor.tsx", "main.css", "main.tsx", "people.tsx", "state.ts"];

const { version, devDependencies } = readJson("package.json");
const TEMPLATES: Record<string, Template> = {
  presence: {
    files: {
      "index.html": "examples/cursors/index.html",
      ...Object.fromEntries(CURSORS.map((name) => [`page/${name}`, `examples/cursors/${name}`])),
      ...LOGIN,
    },
    dependencies: ["hono", "jose", "react", "react-dom", "zod"],
    devDependencies: {
      ...versionsOf(["@types/react", "@types/react-dom"]),
      "@vitejs/plugin-react": "6.3.0",
    },
  },
  room: {
    files: {
      "worker/events.ts": "examples/chat/events.ts",
      "worker/room.ts": "examples/chat/room.ts",
    },
    dependencies: ["zod"],
  },
  service: { files: LOGIN, dependencies: ["hono", "jose", "zod"] },
};

/** The scripts of each app. */
export const SCRIPTS = {
  dev: "vite",
  build: "vite build",
  check: "tsc -p worker && tsc -p page && tsc -p test",
  test: "vitest run",
  deploy: "npm run build && wrangler deploy",
};

function write(name: string, { files, dependencies, devDependencies: more }: Template): void {
  const folder = `create/dist/${name}`;
  cpSync("create/templates/shared", folder, { recursive: true });
  for (const [path, source] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    cpSync(source, join(folder, path));
  }
  cpSync(`create/templates/${name}`, folder, { recursive: true });

  if (name === "presence") {
    // The example's page lies beside its modules.
    edit(`${folder}/index.html`, 'src="/main.tsx"', () => 'src="/page/main.tsx"');
  }
  if (name === "service") {
    edit(`${folder}/wrangler.toml`, /$/, () => sectionsOfService().join("\n"));
  }
  const manifest = {
    name: "rollcall-app",
    private: true,
    type: "module",
    scripts: SCRIPTS,
    engines: { node: ">=22.12" },
    dependencies: sorted({ rollcall: version, ...versionsOf(dependencies) }),
    devDependencies: sorted({
      ...versionsOf([
        "@cloudflare/vitest-plugin",
        "@cloudflare/workers-types",
        "typescript",
        "vite",
        "vitest",
      ]),
      ...CLOUDFLARE,
      ...more,
    }),
    allowScripts: { esbuild: true, workerd: true },
  };
  writeFileSync(`${folder}/package.json`, `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The actors and limits of the service itself. */
function sectionsOfService(): string[] {
  const text = readFileSync("wrangler.toml", "utf8");
  const wanted = /^\[\[(?:durable_objects\.bindings|migrations|ratelimits)\]\]\n(?:\w.*\n?)+/gm;
  return text.match(wanted) ?? [];
}

function versionsOf(names: string[]): Record<string, string> {
  return Object.fromEntries(
    names.map((name) => {
      // Tools that use the API of the compiler need TypeScript 6 under that name; `tsc` is the other's.
      const found = devDependencies[name === "typescript" ? "@typescript/native" : name];
      if (!found) throw new Error(`${name} is no devDependency`);
      return [name, found.replace(/^npm:.+@/, "")];
    }),
  );
}

function sorted(versions: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(versions).sort(([a], [b]) => a.localeCompare(b)));
}

/** @throws Error when there is nothing to replace */
function edit(path: string, what: string | RegExp, by: () => string): void {
  const text = readFileSync(path, "utf8");
  const edited = text.replace(what, by);
  if (edited === text) throw new Error(`${path} has no ${what}`);
  writeFileSync(path, edited);
}

function readJson(path: string): { version: string; devDependencies: Record<string, string> } {
  return JSON.parse(readFileSync(join(PROJECT, path), "utf8"));
}

if (import.meta.main) {
  process.chdir(PROJECT);
  if (readJson("create/package.json").version !== version) {
    throw new Error(`create/package.json has another version than package.json: ${version}`);
  }
  rmSync("create/dist", { recursive: true, force: true });
  for (const [name, template] of Object.entries(TEMPLATES)) write(name, template);
}
