import { cloudflare } from "@cloudflare/vite-plugin";
import { defineConfig } from "vite";

// The page and the Worker of wrangler.toml, on one port.
export default defineConfig({ plugins: [cloudflare()] });
