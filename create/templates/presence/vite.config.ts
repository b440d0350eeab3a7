import { cloudflare } from "@cloudflare/vite-plugin";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The page and the Worker of wrangler.toml, on one port.
export default defineConfig({ plugins: [react(), cloudflare()] });
