import type { SecurityName } from "../../http/describe.ts";

/** The security schemes of both documents, in OpenAPI's words. */
export const SECURITY = {
  bearer: {
    type: "http",
    scheme: "bearer",
    bearerFormat: "JWT",
    description:
      "A user's JWT, HS256 with JWT_SECRET; in development also `user:<name>` for presence",
  },
  bearerQuery: { type: "apiKey", in: "query", name: "token", description: "The same, in the URL" },
  presenceToken: {
    type: "http",
    scheme: "bearer",
    description: "A presence token with the scope presence:read, of POST /api/v1/presence/tokens",
  },
  presenceTokenQuery: {
    type: "apiKey",
    in: "query",
    name: "token",
    description: "The same, in the URL",
  },
  ingest: {
    type: "http",
    scheme: "bearer",
    description:
      "PRESENCE_DO_INGEST_TOKEN, which backends show, or a daemon's own token, of POST /api/v1/devices/tokens",
  },
  server: { type: "http", scheme: "bearer", description: "SERVER_BYPASS_TOKEN" },
  mint: {
    type: "http",
    scheme: "bearer",
    description: "PRESENCE_DO_MINT_TOKEN; in development PRESENCE_DO_INGEST_TOKEN will do",
  },
} as const satisfies Record<SecurityName, object>;
