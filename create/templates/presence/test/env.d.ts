/** What tests find in `env` and `exports` of `cloudflare:workers`. */
declare namespace Cloudflare {
  interface GlobalProps {
    mainModule: typeof import("../worker/worker.ts");
  }
  interface Env {
    PRESENCE: DurableObjectNamespace<import("../worker/worker.ts").PresenceRoom>;
  }
}
