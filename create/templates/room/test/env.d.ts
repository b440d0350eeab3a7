/** What tests find in `env` and `exports` of `cloudflare:workers`. */
declare namespace Cloudflare {
  interface GlobalProps {
    mainModule: typeof import("../worker/room.ts");
  }
  interface Env {
    CHAT: DurableObjectNamespace<import("../worker/room.ts").Chat>;
  }
}
