import { SELF } from "cloudflare:test";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createWorkspaceApp } from "../../rooms/workspace/worker.ts";
import { env, ORIGIN, sign, type TestEnv } from "./client.ts";

const MIB = 1024 * 1024;
const PNG = Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 1, 2, 3]);
const latin1 = (text: string) => Uint8Array.from(text, (char) => char.charCodeAt(0));

async function authorization(): Promise<Record<string, string>> {
  return { Authorization: `Bearer ${await sign({ userId: "ann" })}` };
}

describe("image routes", () => {
  async function upload(form: FormData | null, headers = authorization()): Promise<Response> {
    return SELF.fetch(`${ORIGIN}/api/upload-image`, {
      method: "POST",
      headers: await headers,
      body: form,
    });
  }
  function formOf(bytes: Uint8Array, name = "a.png", type = "image/png"): FormData {
    const form = new FormData();
    form.set("title", "before the file");
    form.set("file", new File([bytes], name, { type }));
    return form;
  }
  /** A body that continues for as long as it is read. */
  function endless(head: Uint8Array): { body: ReadableStream<Uint8Array>; sent: () => number } {
    const chunk = new Uint8Array(64 * 1024);
    let sent = 0;
    const start = latin1(
      '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
    );
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(start);
        controller.enqueue(head);
      },
      pull(controller) {
        sent += chunk.length;
        controller.enqueue(chunk);
      },
    });
    return { body, sent: () => sent };
  }
  async function uploadEndless(head: Uint8Array): Promise<{ response: Response; sent: number }> {
    const { body, sent } = endless(head);
    const response = await SELF.fetch(`${ORIGIN}/api/upload-image`, {
      method: "POST",
      headers: { ...(await authorization()), "Content-Type": "multipart/form-data; boundary=b" },
      body,
    });
    return { response, sent: sent() };
  }

  it("store an image under a new key and serve it with its type, to be cached for ever", async () => {
    const response = await upload(formOf(PNG));
    expect(response.status).toBe(200);
    const { url, key } = await response.json<{ url: string; key: string }>();
    expect(key).toMatch(/^covers\/[0-9a-f-]{36}\.png$/);
    // Not the host that the client named.
    expect(url).toBe(`/api/images/${key}`);
    const address = `http://localhost:8787${url}`;

    const image = await SELF.fetch(address);
    expect(new Uint8Array(await image.arrayBuffer())).toEqual(PNG);
    expect(Object.fromEntries(image.headers)).toMatchObject({
      "content-type": "image/png",
      "cache-control": "public, max-age=31536000, immutable",
      "x-content-type-options": "nosniff",
    });
    const etag = image.headers.get("ETag") ?? "";
    const again = await SELF.fetch(address, { headers: { "If-None-Match": `"other", ${etag}` } });
    expect([again.status, await again.text(), again.headers.get("ETag")]).toEqual([304, "", etag]);
    const changed = await SELF.fetch(address, { headers: { "If-None-Match": '"other"' } });
    expect([changed.status, (await changed.arrayBuffer()).byteLength]).toEqual([200, PNG.length]);
  });

  it.each([
    ["png", PNG],
    ["jpg", latin1("\xff\xd8\xff\xe0\0\x10JFIF")],
    ["webp", latin1("RIFF\0\0\0\0WEBPVP8 ")],
    ["gif", latin1("GIF89a\x01\0\x01\0")],
  ])(
    "detect a %s image by its first bytes, whatever name and type its sender declares",
    async (extension, bytes) => {
      const response = await upload(formOf(bytes, "a.jpg", "text/html"));
      const { key } = await response.json<{ key: string }>();
      expect(key.endsWith(`.${extension}`)).toBe(true);
      const image = await SELF.fetch(`${ORIGIN}/api/images/${key}`);
      expect(image.headers.get("Content-Type")).toBe(
        `image/${extension === "jpg" ? "jpeg" : extension}`,
      );
      await image.arrayBuffer();
    },
  );

  it.each([
    ["an HTML page", formOf(latin1("<html>".padEnd(64)), "a.png"), "INVALID_FILE"],
    ["an SVG image", formOf(latin1("<svg onload=alert(1)/>"), "a.png"), "INVALID_FILE"],
    ["an empty file", formOf(new Uint8Array()), "INVALID_FILE"],
    ["a form without the field `file`", new FormData(), "NO_FILE"],
    ["no form at all", null, "NO_FILE"],
  ])("refuse an upload of %s", async (_, form, code) => {
    form?.set("other", "field");
    const response = await upload(form);
    expect(response.status).toBe(400);
    expect(await response.json()).toEqual({ error: expect.any(String), code });
  });

  it("refuse a form whose field `file` is text, and a form that is cut off", async () => {
    const form = new FormData();
    form.set("file", "text");
    const text = await upload(form);
    expect([text.status, await text.json()]).toMatchObject([400, { code: "NO_FILE" }]);
    const cutOff = await SELF.fetch(`${ORIGIN}/api/upload-image`, {
      method: "POST",
      headers: { ...(await authorization()), "Content-Type": "multipart/form-data; boundary=b" },
      body: '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nGIF89a',
    });
    expect([cutOff.status, await cutOff.json()]).toMatchObject([400, { code: "INVALID_FILE" }]);
  });

  it("accept an image of 5 MiB, and refuse one with a byte more", async () => {
    const most = new Uint8Array(5 * MIB);
    most.set(PNG);
    expect((await upload(formOf(most))).status).toBe(200);
    const more = new Uint8Array(5 * MIB + 1);
    more.set(PNG);
    const response = await upload(formOf(more));
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: "INVALID_FILE" });
  });

  it("refuse an image that is too large while its sender still sends", async () => {
    const { response, sent } = await uploadEndless(PNG);
    expect(await response.json()).toMatchObject({ code: "INVALID_FILE" });
    expect(sent).toBeGreaterThan(4.9 * MIB);
    // The rest is drained so that the sender sees the answer, but not without a limit.
    expect(sent).toBeLessThan(24 * MIB);
  });

  it("refuse an image that is too large although its sender stalls", async () => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(latin1('--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'));
        controller.enqueue(PNG);
        // What the largest image may have, and what the rest of its form may have.
        controller.enqueue(new Uint8Array(5 * MIB + 16 * 1024));
      },
    });
    const response = await SELF.fetch(`${ORIGIN}/api/upload-image`, {
      method: "POST",
      headers: { ...(await authorization()), "Content-Type": "multipart/form-data; boundary=b" },
      body,
    });
    expect(await response.json()).toMatchObject({ code: "INVALID_FILE" });
  });

  it("refuse an endless upload that is not an image", async () => {
    const { response, sent } = await uploadEndless(latin1("<html>".padEnd(64)));
    expect(response.status).toBe(400);
    expect(sent).toBeLessThan(24 * MIB);
  });

  it("refuse an upload without a valid token", async () => {
    const forged = sign({ userId: "ann" }, "x".repeat(32));
    for (const token of [null, "garbage", await forged, await sign({ userId: "ann", exp: 1 })]) {
      const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
      const response = await upload(formOf(PNG), Promise.resolve(headers as never));
      expect(response.status).toBe(401);
      expect(await response.json()).toMatchObject({ code: "AUTH_REQUIRED" });
    }
  });

  it.each([
    "covers/../covers/x.png",
    "covers%2F00000000-0000-0000-0000-000000000000.png",
    "..%2F..%2Fsecret",
    "covers/00000000-0000-0000-0000-000000000000.png",
    "covers/00000000-0000-0000-0000-000000000000.png/",
    "covers//00000000-0000-0000-0000-000000000000.png",
    "covers/00000000-0000-0000-0000-000000000000.svg",
    "private/key.txt",
    "",
  ])("serve nothing but uploaded images: 404 for the key %j", async (key) => {
    await env.IMAGES.put("private/key.txt", "secret");
    await env.IMAGES.put("secret", "secret");
    const response = await SELF.fetch(`${ORIGIN}/api/images/${key}`);
    expect(response.status).toBe(404);
    expect(await response.text()).not.toContain("secret");
  });
});

describe("a user's images", () => {
  const ask = async (path: string, method: string, user: string, body?: FormData, more = {}) => {
    const headers = { Authorization: `Bearer ${await sign({ userId: user, ...more })}` };
    return createWorkspaceApp().request(
      path,
      { method, headers, ...(body && { body }) },
      { ...env, IMAGES_PER_USER: "2" },
    );
  };
  const upload = (user: string) => {
    const form = new FormData();
    form.set("file", new File([PNG], "a.png"));
    return ask("/api/upload-image", "POST", user, form);
  };

  it("are so many at most, each user by itself, and make room when they are deleted", async () => {
    const [mia, tom] = [crypto.randomUUID(), crypto.randomUUID()];
    const answers = await Promise.all([1, 2, 3, 4].map(() => upload(mia)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 403, 403]);
    const refused = answers.find(({ status }) => status === 403);
    expect(await refused?.json()).toMatchObject({ code: "LIMIT_REACHED" });
    expect((await upload(tom)).status).toBe(200);

    const stored = answers.find(({ status }) => status === 200) as Response;
    const path = `/api/images/${((await stored.json()) as { key: string }).key}`;
    expect((await ask(path, "DELETE", tom)).status).toBe(404);
    expect((await SELF.fetch(ORIGIN + path, { method: "DELETE" })).status).toBe(401);
    const noGrant = { cap: { images: ["upload"] } };
    expect((await ask(path, "DELETE", mia, undefined, noGrant)).status).toBe(403);
    expect((await SELF.fetch(ORIGIN + path)).status).toBe(200);
    expect((await ask(path, "DELETE", mia)).status).toBe(204);
    expect((await SELF.fetch(ORIGIN + path)).status).toBe(404);
    expect((await ask(path, "DELETE", mia)).status).toBe(404);
    expect((await upload(mia)).status).toBe(200);
  });
});

describe("the LLM proxy", () => {
  const KEY = "sk-very-secret-key";
  const SETTINGS: Partial<TestEnv> = {
    BRAINTRUST_API_KEY: KEY,
    BRAINTRUST_PROJECT_ID: "project-1",
    LLM_BASE_URL: "https://llm.test/v1/",
  };
  const REQUEST = { model: "gpt", messages: [{ role: "user", content: "hi" }], stream: true };
  const encoder = new TextEncoder();
  const chunk = (text: string) => `data: {"choices":[{"delta":{"content":"${text}"}}]}\n\n`;
  const lines: string[] = [];
  const answers: string[] = [];

  beforeEach(() => {
    lines.length = answers.length = 0;
    vi.spyOn(console, "log").mockImplementation((line) => void lines.push(String(line)));
  });
  afterEach(() => {
    // No error may reveal the key.
    expect([...lines, ...answers].join()).not.toContain(KEY);
    vi.restoreAllMocks();
    vi.useRealTimers();
  });

  /** Replaces the upstream; returns the requests that it receives. */
  function upstream(answer: (request: Request) => Response | Promise<Response>): Request[] {
    const requests: Request[] = [];
    vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
      const request = new Request(input as RequestInfo, init as RequestInit);
      requests.push(request);
      return answer(request);
    });
    return requests;
  }
  async function complete(
    body: unknown = REQUEST,
    settings = SETTINGS,
    headers = authorization(),
  ): Promise<Response> {
    const request = new Request(`${ORIGIN}/api/llm/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(await headers) },
      body: JSON.stringify(body),
    });
    return createWorkspaceApp().fetch(request, { ...env, ...settings });
  }
  async function faultOf(response: Response): Promise<string> {
    const text = await response.text();
    answers.push(text, ...[...response.headers].flat());
    const { error } = JSON.parse(text) as {
      error: { message: string; type: string; code: string };
    };
    expect(error).toEqual({
      message: expect.any(String),
      type: expect.any(String),
      code: expect.any(String),
    });
    return `${response.status} ${error.code}`;
  }
  const eventStream = (body: BodyInit) =>
    new Response(body, { headers: { "Content-Type": "text/event-stream" } });

  it("refuses tools of the upstream's own, which are not offered by name", async () => {
    const requests = upstream(() => Response.json({}));
    for (const tool of [{ type: "web_search" }, { type: "function" }, { name: "x" }, 7]) {
      expect(await faultOf(await complete({ ...REQUEST, tools: [tool] }))).toBe(
        "400 invalid_request",
      );
    }
    expect(requests).toHaveLength(0);
  });

  it("never answers with the upstream's own content type", async () => {
    const headers = { "Content-Type": "text/html" };
    upstream(() => new Response("<script>alert(1)</script>", { headers }));
    const answer = await complete();
    expect(answer.headers.get("Content-Type")).toBe("application/json");
    expect(answer.headers.get("X-Content-Type-Options")).toBe("nosniff");
    await answer.text();
  });

  it("forwards the first chunk of a completion before the upstream has made the last one", async () => {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    const requests = upstream(() => eventStream(readable));
    void writer.write(encoder.encode(chunk("one")));
    const response = await complete();
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader?.read())?.value).toBe(chunk("one"));
    void writer.write(encoder.encode(`${chunk("two")}data: [DONE]\n\n`)).then(() => writer.close());
    expect((await reader?.read())?.value).toBe(`${chunk("two")}data: [DONE]\n\n`);
    expect((await reader?.read())?.done).toBe(true);

    const [request] = requests;
    expect(request?.url).toBe("https://llm.test/v1/chat/completions");
    expect(request?.headers.get("Authorization")).toBe(`Bearer ${KEY}`);
    expect(request?.headers.get("x-bt-parent")).toBe("project_id:project-1");
    expect(await request?.json()).toEqual(REQUEST);
  });

  it("forwards a whole answer to a request that asks for no stream", async () => {
    upstream(() => Response.json({ choices: [] }));
    const response = await complete({ ...REQUEST, stream: false });
    expect([response.status, await response.json()]).toEqual([200, { choices: [] }]);
  });

  it("calls Braintrust when no other address is configured", async () => {
    const requests = upstream(() => Response.json({}));
    await complete(REQUEST, { BRAINTRUST_API_KEY: KEY });
    expect(requests[0]?.url).toBe("https://api.braintrust.dev/v1/proxy/chat/completions");
  });

  it.each([
    [401, "502 upstream_unauthorized"],
    [403, "502 upstream_unauthorized"],
    [400, "502 upstream_rejected"],
    [500, "502 upstream_failed"],
    [503, "502 upstream_failed"],
    [302, "502 upstream_failed"],
  ])("answers an upstream's %i with %s", async (status, fault) => {
    upstream(() => Response.json({ error: { message: `Bad key ${KEY}` } }, { status }));
    expect(await faultOf(await complete())).toBe(fault);
  });

  it("keeps the Retry-After of an upstream's 429", async () => {
    upstream(() => new Response("slow down", { status: 429, headers: { "Retry-After": "7" } }));
    const response = await complete();
    expect(response.headers.get("Retry-After")).toBe("7");
    expect(await faultOf(response)).toBe("429 rate_limited");
  });

  it("answers 502 upstream_unreachable when it cannot connect to the upstream", async () => {
    upstream(() => Promise.reject(new TypeError(`cannot connect with ${KEY}`)));
    expect(await faultOf(await complete())).toBe("502 upstream_unreachable");
  });

  it.each([
    ["no headers", () => new Promise<Response>(() => {})],
    ["headers but no byte", () => eventStream(new ReadableStream())],
  ])("answers 504 after a minute when the upstream sends %s", async (_, answer) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    let isAnswered = false;
    const requests = upstream(answer);
    const answered = complete().finally(() => {
      isAnswered = true;
    });
    await vi.waitUntil(() => requests.length === 1, { interval: 0 }).catch(() => {});
    await vi.advanceTimersByTimeAsync(59_000);
    expect(isAnswered).toBe(false);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await faultOf(await answered)).toBe("504 upstream_timeout");
    expect(requests[0]?.signal.aborted).toBe(true);
  });

  it.each([
    ["breaks off", (c: ReadableStreamDefaultController) => c.error(new Error("reset"))],
    ["ends without [DONE]", (c: ReadableStreamDefaultController) => c.close()],
  ])("ends a stream with an error event when the upstream's stream %s", async (_, end) => {
    let isFirst = true;
    const body = new ReadableStream({
      pull(controller) {
        if (isFirst) controller.enqueue(encoder.encode(chunk("one")));
        else end(controller);
        isFirst = false;
      },
    });
    upstream(() => eventStream(body));
    const response = await complete();
    expect(response.status).toBe(200);
    const text = await response.text();
    const [first, last] = text.split("\n\n").filter(Boolean);
    expect(`${first}\n\n`).toBe(chunk("one"));
    expect(JSON.parse(last?.slice("data: ".length) ?? "")).toMatchObject({
      error: { code: "upstream_cut" },
    });
    expect(text).not.toContain("[DONE]");
  });

  it("answers 502 when a whole answer breaks off", async () => {
    let isFirst = true;
    const body = new ReadableStream({
      pull(controller) {
        if (isFirst) controller.enqueue(encoder.encode('{"choi'));
        else controller.error(new Error("reset"));
        isFirst = false;
      },
    });
    upstream(() => new Response(body, { headers: { "Content-Type": "application/json" } }));
    expect(await faultOf(await complete({ ...REQUEST, stream: false }))).toBe("502 upstream_cut");
  });

  it("cancels the upstream's stream when the client disconnects", async () => {
    const canceled = Promise.withResolvers<void>();
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(encoder.encode(chunk("one"))),
      cancel: () => canceled.resolve(),
    });
    upstream(() => eventStream(body));
    const response = await complete();
    await response.body?.cancel();
    await canceled.promise;
  });

  it("replaces the names of tools by their definitions, and refuses names that it does not know", async () => {
    const own = { type: "function", function: { name: "own", parameters: {} } };
    const extra = { type: "function", function: { name: "extra" } };
    const settings = { ...SETTINGS, LLM_TOOLS: JSON.stringify([extra]) };
    const list = await createWorkspaceApp().request("/api/llm/tools", {}, { ...env, ...settings });
    const { tools } = await list.json<{ tools: { function: { name: string } }[] }>();
    expect(tools.map((tool) => tool.function.name)).toEqual([
      "list_presence",
      "set_status",
      "show_image",
      "extra",
    ]);
    const requests = upstream(() => Response.json({}));
    await complete({ ...REQUEST, tools: ["set_status", own, "extra"] }, settings);
    expect(await requests[0]?.json()).toMatchObject({ tools: [tools[1], own, extra] });
    expect(await faultOf(await complete({ ...REQUEST, tools: ["nothing"] }))).toBe(
      "400 unknown_tool",
    );
  });

  it("calls the models that it offers only, for so many tokens and answers at most", async () => {
    const requests = upstream(() => Response.json({}));
    const settings = {
      ...SETTINGS,
      LLM_MODELS: "gpt, other",
      LLM_MAX_TOKENS: "100",
      LLM_MAX_N: "2",
    };
    const ask = (more: object) => complete({ ...REQUEST, stream: false, ...more }, settings);
    for (const more of [{ model: "gpt-5" }, { models: ["gpt-5"] }]) {
      expect(await faultOf(await ask(more))).toBe("403 model_not_allowed");
    }
    for (const more of [
      { max_tokens: 101 },
      { max_completion_tokens: 101 },
      { max_tokens: 1, max_completion_tokens: 101 },
      { n: 3 },
      { n: 0 },
      { max_tokens: "5" },
    ]) {
      expect(await faultOf(await ask(more)), JSON.stringify(more)).toBe("400 invalid_request");
    }
    expect(requests).toHaveLength(0);
    for (const [more, sent] of [
      [{}, { max_tokens: 100 }],
      [{ max_tokens: null }, { max_tokens: 100 }],
      [{ max_completion_tokens: 100, model: "other" }, { max_completion_tokens: 100 }],
      [
        { max_tokens: 7, n: 2 },
        { max_tokens: 7, n: 2 },
      ],
    ]) {
      expect((await ask(more as object)).status).toBe(200);
      expect(await requests.at(-1)?.json()).toMatchObject(sent as object);
    }
    expect(requests).toHaveLength(4);
    // Without a configuration, nothing is put in, and there are four answers at most.
    await complete({ ...REQUEST, stream: false, n: 4 });
    expect(await requests.at(-1)?.json()).toEqual({ ...REQUEST, stream: false, n: 4 });
    expect(await faultOf(await complete({ ...REQUEST, n: 5 }))).toBe("400 invalid_request");
    const wrong = { ...SETTINGS, LLM_MAX_TOKENS: "many" };
    expect(await faultOf(await complete(REQUEST, wrong))).toBe("503 not_configured");
  });

  it("does not call the upstream without a token, a key or a valid request", async () => {
    const requests = upstream(() => Response.json({}));
    const noToken = Promise.resolve({} as Record<string, string>);
    expect(await faultOf(await complete(REQUEST, SETTINGS, noToken as never))).toBe(
      "401 unauthorized",
    );
    expect(await faultOf(await complete(REQUEST, { BRAINTRUST_API_KEY: "" }))).toBe(
      "503 not_configured",
    );
    for (const body of [{}, { model: "m", messages: [] }, { ...REQUEST, stream: "yes" }, []]) {
      expect(await faultOf(await complete(body))).toBe("400 invalid_request");
    }
    expect(requests).toEqual([]);
  });
});
