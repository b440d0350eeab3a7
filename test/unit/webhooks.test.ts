import { afterEach, describe, expect, it, vi } from "vitest";
import { keepsChanges, type WebhookEnv, webhooksOf } from "../../rooms/presence/webhooks.ts";
import { RollcallError } from "../../src/wire/errors.ts";

const secretOf = (text: string) => `whsec_${btoa(text)}`;
const SECRET = secretOf("an own secret of this deployment");
const EXAMPLE = secretOf("development-only-webhook-secret-0123456789abcdef");

let count = 0;
/** A room that no other test has: a configuration is parsed once. */
const freshRoom = () => `room-${++count}`;

interface Given {
  url?: string;
  secret?: string;
  more?: object;
  env?: object;
}

/** A configuration of one webhook, for a room. */
function deployment(room: string, { url, secret = SECRET, more = {}, env }: Given): WebhookEnv {
  const WEBHOOKS = JSON.stringify([{ url, rooms: room, ...more }]);
  return { ENVIRONMENT: "production", WEBHOOK_SECRET: secret, WEBHOOKS, ...env };
}

function refusal(room: string, env: WebhookEnv): unknown {
  try {
    return webhooksOf(room, env);
  } catch (thrown) {
    return thrown;
  }
}

const UNAVAILABLE = expect.objectContaining({ code: "unavailable", message: "Not configured" });

function refuses(given: Given): void {
  const room = freshRoom();
  const env = deployment(room, given);
  expect(refusal(room, env)).toEqual(UNAVAILABLE);
  // Other rooms neither: what they are to keep is not known.
  expect(() => keepsChanges("elsewhere", env)).toThrow(RollcallError);
}

const logged = vi.spyOn(console, "log").mockImplementation(() => {});
afterEach(() => logged.mockClear());

describe("in production, the url of a webhook", () => {
  it.each([
    "https://hooks.example.com/rollcall",
    "https://example.com:8443/a?b=c",
    "https://HOOKS.example.COM./rollcall",
    "https://xn--bcher-kva.example.org",
    "https://1.example.com",
    "https://localhost.example.com",
    "https://internal.example.com",
  ])("may be %s", (url) => {
    const room = freshRoom();
    const [hook] = webhooksOf(room, deployment(room, { url }));
    expect(hook).toEqual({ url, rooms: room, events: undefined, secret: SECRET });
  });

  it.each([
    ["http", "http://hooks.example.com"],
    ["another scheme", "ftp://hooks.example.com"],
    ["a user", "https://ann@hooks.example.com"],
    ["a password", "https://ann:secret@hooks.example.com"],
    ["an empty user and a password", "https://:secret@hooks.example.com"],
    ["an address", "https://93.184.216.34"],
    ["loopback", "https://127.0.0.1"],
    ["loopback with a dot behind it", "https://127.0.0.1./"],
    ["loopback in two parts", "https://127.1"],
    ["loopback in hexadecimal", "https://0x7f.0.0.1"],
    ["loopback as one hexadecimal number", "https://0x7f000001"],
    ["loopback in octal", "https://0177.0.0.1"],
    ["loopback as one number", "https://2130706433"],
    ["loopback in full-width digits", "https://１２７.0.0.1"],
    ["loopback in percent-encoding", "https://%31%32%37.0.0.1"],
    ["a private address", "https://192.168.0.1:8443/a"],
    ["the address of metadata", "https://169.254.169.254/latest/meta-data"],
    ["IPv6", "https://[2606:4700:4700::1111]"],
    ["loopback of IPv6", "https://[::1]"],
    ["loopback of IPv4 in IPv6", "https://[::ffff:127.0.0.1]"],
    ["localhost", "https://localhost"],
    ["localhost with a dot behind it", "https://localhost."],
    ["localhost in capitals", "https://LOCALHOST"],
    ["a name below localhost", "https://hooks.localhost"],
    ["a name without a dot", "https://hooks"],
    ["a name without a dot but at its end", "https://hooks."],
    ["a name of a private network", "https://hooks.internal"],
    ["the name of metadata", "https://metadata.google.internal"],
    ["the same with a dot behind it", "https://metadata.google.internal."],
    ["the same in capitals", "https://METADATA.GOOGLE.INTERNAL"],
    ["a name by multicast DNS", "https://printer.local"],
    ["a name of a home network", "https://nas.home.arpa"],
    ["a name that nobody can have", "https://hooks.invalid"],
    ["no url", "hooks.example.com"],
    ["more than 1024 characters", `https://hooks.example.com/${"a".repeat(1_000)}`],
  ])("is refused for %s", (_, url) => refuses({ url }));

  it("may be http to any address in development only", () => {
    for (const url of ["http://127.0.0.1:9000/hook", "http://localhost/hook"]) {
      const room = freshRoom();
      const env = { ENVIRONMENT: "development" };
      expect(webhooksOf(room, deployment(room, { url, env }))).toHaveLength(1);
    }
    // Whatever else ENVIRONMENT is, is production.
    for (const ENVIRONMENT of [undefined, "", "Development", "staging"]) {
      refuses({ url: "http://127.0.0.1:9000/hook", env: { ENVIRONMENT } });
    }
    for (const url of ["ftp://localhost/hook", "http://ann:secret@localhost"]) {
      refuses({ url, env: { ENVIRONMENT: "development" } });
    }
  });
});

describe("the secret of a webhook", () => {
  const url = "https://hooks.example.com";

  it.each([
    ["is missing", ""],
    ["has 23 bytes", secretOf("x".repeat(23))],
    ["has 65 bytes", secretOf("x".repeat(65))],
    ["has no prefix", btoa("x".repeat(32))],
    ["is no base64", "whsec_this is a secret that is not in base64"],
    ["is the example's", EXAMPLE],
  ])("lets nobody join where it %s", (_, secret) => refuses({ url, secret }));

  it("has 24 to 64 bytes; the example's holds in development", () => {
    for (const secret of [secretOf("x".repeat(24)), secretOf("x".repeat(64))]) {
      const room = freshRoom();
      expect(webhooksOf(room, deployment(room, { url, secret }))).toMatchObject([{ secret }]);
    }
    const room = freshRoom();
    const env = { ENVIRONMENT: "development" };
    const [hook] = webhooksOf(room, deployment(room, { url, secret: EXAMPLE, env }));
    expect(hook?.secret).toBe(EXAMPLE);
  });

  it("may be another variable's, which must be there, and not be any variable", () => {
    const room = freshRoom();
    const own = secretOf("the secret of another webhook");
    const more = { secret: "WEBHOOK_SECRET_TWO" };
    const env = { WEBHOOK_SECRET_TWO: own };
    expect(webhooksOf(room, deployment(room, { url, more, env }))).toMatchObject([{ secret: own }]);
    refuses({ url, more });
    refuses({ url, more: { secret: "__proto__" } });
    refuses({ url, more: { secret: "JWT_SECRET" }, env: { JWT_SECRET: "x".repeat(40) } });
  });
});

describe("a configuration of webhooks that is malformed", () => {
  const url = "https://hooks.example.com";
  const webhook = (more: object) => JSON.stringify([{ url, rooms: "a", ...more }]);

  it.each([
    ["no JSON", "[{"],
    ["no list", "{}"],
    ["a list of texts", '["https://hooks.example.com"]'],
    ["no rooms", JSON.stringify([{ url }])],
    ["rooms that no room can be called", webhook({ rooms: "a b" })],
    ["a star in the middle", webhook({ rooms: "a*b" })],
    ["empty rooms", webhook({ rooms: "" })],
    ["an unknown field", webhook({ event: ["user.left"] })],
    ["an unknown event", webhook({ events: ["user.moved"] })],
    ["no events at all", webhook({ events: [] })],
    ["21 webhooks", JSON.stringify(Array.from({ length: 21 }, () => ({ url, rooms: "a" })))],
    ["one bad webhook among good ones", JSON.stringify([{ url, rooms: "a" }, { rooms: 1 }])],
  ])("holds for no room: %s", (_, WEBHOOKS) => {
    const env = { ENVIRONMENT: "production", WEBHOOK_SECRET: SECRET, WEBHOOKS };
    expect(refusal("a", env)).toEqual(UNAVAILABLE);
    expect(() => keepsChanges("b", env)).toThrow("Not configured");
  });

  it("is named in the log, without the url and the secret", () => {
    refuses({ url: "https://ann:pa55word@hooks.example.com/path", secret: SECRET });
    refuses({ url, secret: "whsec_c2hvcnQ=" });
    const lines = logged.mock.calls.map(([line]) => String(line));
    expect(lines).toHaveLength(2);
    for (const line of lines) expect(line).toContain('"event":"webhooks_refused"');
    expect(lines.join()).not.toMatch(/ann|pa55word|hooks\.example|c2hvcnQ/);
  });
});

describe("the rooms of a webhook", () => {
  const url = "https://hooks.example.com";

  it("are one by its name, or all whose names begin with it", () => {
    const [a, b] = [freshRoom(), freshRoom()];
    const WEBHOOKS = JSON.stringify([
      { url, rooms: a },
      { url: `${url}/more`, rooms: `${b}*`, events: ["user.left"] },
      { url, rooms: `${b}*` },
      { rooms: "kept" },
    ]);
    const env = { ENVIRONMENT: "production", WEBHOOK_SECRET: SECRET, WEBHOOKS };
    const urls = (room: string) => webhooksOf(room, env).map(({ url }) => url);
    expect(urls(a)).toEqual([url]);
    expect(urls(`${a}0`)).toEqual([]);
    expect(urls(`${b}0`)).toEqual([`${url}/more`, url]);
    expect(webhooksOf(b, env)[0]?.events).toEqual(new Set(["user.left"]));
    expect(urls("kept")).toEqual([]);
    expect([a, `${a}0`, b, "kept", "kept0"].map((room) => keepsChanges(room, env))).toEqual([
      ...[true, false, true, true, false],
    ]);
  });

  it("get one request from two webhooks with the same url: the first counts", () => {
    const room = freshRoom();
    const WEBHOOKS = JSON.stringify([
      { url, rooms: room, events: ["user.left"] },
      { url, rooms: "*" },
    ]);
    const env = { ENVIRONMENT: "production", WEBHOOK_SECRET: SECRET, WEBHOOKS };
    expect(webhooksOf(room, env)).toMatchObject([{ events: new Set(["user.left"]) }]);
  });

  it("are none without a configuration", () => {
    for (const WEBHOOKS of [undefined, ""]) {
      expect(
        webhooksOf("a", { ENVIRONMENT: "production", ...(WEBHOOKS !== undefined && { WEBHOOKS }) }),
      ).toEqual([]);
      expect(keepsChanges("a", { ENVIRONMENT: "production" })).toBe(false);
    }
  });
});
