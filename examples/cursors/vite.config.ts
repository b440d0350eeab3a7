import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

/** Where `npm start` runs. */
const SERVER = process.env.ROLLCALL ?? "http://localhost:8787";

export default defineConfig({
  root: import.meta.dirname,
  // In a project of yours the library is installed; here it is its source.
  resolve: {
    alias: { "rollcall/react": fileURLToPath(new URL("../../client/react.ts", import.meta.url)) },
  },
  // The page and the service share an origin, as they would in production.
  server: { proxy: { "/ws": { target: SERVER, ws: true, changeOrigin: true } } },
  build: { outDir: "dist", emptyOutDir: true },
});
