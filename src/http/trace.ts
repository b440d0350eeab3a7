import { tracing } from "cloudflare:workers";

/** Names of our own spans, beside those the runtime makes for fetches, KV, D1 and actors. */
export type SpanName = "ingest" | "publish" | "sync.auth" | "llm.upstream";

/**
 * Runs `work` in a span of the runtime's own tracing (`[observability.traces]`), below the span that is
 * open. The span ends when the promise settles. A failure is marked with its code only, since a message
 * may quote the client. Attributes must not hold a secret, a token or a user's text.
 *
 * @see https://developers.cloudflare.com/workers/observability/traces/custom-spans/
 */
export function inSpan<T>(
  name: SpanName,
  work: (span: Span) => Promise<T>,
  attributes: Record<string, boolean | number | string | undefined> = {},
): Promise<T> {
  return tracing.enterSpan(name, async (span) => {
    span.setAttributes(attributes);
    try {
      return await work(span);
    } catch (thrown) {
      const code = thrown instanceof Error && "code" in thrown ? `${thrown.code}` : "internal";
      span.setAttribute("error.type", code).setStatus({ code: "error", message: code });
      throw thrown;
    }
  });
}
