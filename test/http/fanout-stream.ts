import { exports } from "cloudflare:workers";

const worker = exports.default as { fetch(url: string, init: RequestInit): Promise<Response> };

/** Opens a stream of envelopes, and reads it. */
export async function openStream(query: string, headers: Record<string, string> = {}) {
  const controller = new AbortController();
  const response = await worker.fetch(`https://rollcall.test/fanout/stream?${query}`, {
    headers,
    signal: controller.signal,
  });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return {
    response,
    /** What came so far, once it holds `part`. */
    async until(part: string): Promise<string> {
      while (!text.includes(part)) text += (await reader?.read())?.value ?? "";
      return text;
    },
    close: () => controller.abort(),
  };
}
