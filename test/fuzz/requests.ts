/** Hostile requests to every route, every method on every route, and bytes that are hardly HTTP. */
import { type ClientRequest, request as httpRequest } from "node:http";
import { connect } from "node:net";
import type { Random } from "../kit/random.ts";
import { mutateBytes, mutateHeaders, mutateJson, mutatePath, mutateQuery } from "./mutations.ts";
import { ROUTES } from "./routes.ts";
import { ANSWER_MS, type Case, judgeStatus, type Target } from "./target.ts";

const METHODS = [
  ...["HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE"],
  ...["TRACE", "PURGE", "PROPFIND", "M-SEARCH"],
];
/** More than any route accepts, sent without a Content-Length. */
const OVERSIZE_BYTES = 1_500_000;
/** Cases that try each method on each route once. */
export const SWEEP_CASES = ROUTES.length * METHODS.length;

interface Message {
  method: string;
  /** With the query. */
  path: string;
  headers: Record<string, string>;
  body?: Buffer | undefined;
  isChunked?: boolean;
  /** The client gives up after this time, in ms. */
  abortMs?: number | undefined;
  /** The client reads a stream for this time, in ms. */
  streamMs?: number;
}

/** @returns what the server did wrong */
function send({ stage, marker }: Target, message: Message): Promise<string | undefined> {
  const { method, path, headers, body, isChunked, abortMs, streamMs = 300 } = message;
  return new Promise((resolve) => {
    let request: ClientRequest;
    const done = (fault?: string): void => {
      clearTimeout(timer);
      request?.destroy();
      resolve(fault);
    };
    const timer = setTimeout(() => done(`no answer in ${ANSWER_MS} ms`), ANSWER_MS);
    try {
      const length = body && !isChunked ? { "Content-Length": String(body.length) } : {};
      request = httpRequest(new URL(stage.url), {
        method,
        path,
        headers: { ...headers, ...length },
        agent: false,
      });
    } catch {
      // Node's own parser refuses to send it: no input for the server.
      done();
      return;
    }
    request.on("error", () => done());
    request.on("upgrade", (_, socket) => {
      socket.destroy();
      done();
    });
    request.on("response", (response) => {
      const { statusCode = 0 } = response;
      const chunks: Buffer[] = [];
      const judge = () => done(judgeStatus(statusCode, path, String(Buffer.concat(chunks))));
      response.on("error", judge);
      response.on("close", judge);
      response.on("data", (chunk: Buffer) => {
        if (chunks.length < 10) chunks.push(chunk);
        if (String(chunk).includes(marker) && statusCode >= 500) done("input in a 5xx answer");
      });
      if (response.headers["content-type"]?.includes("event-stream")) setTimeout(judge, streamMs);
    });
    if (body && isChunked) {
      for (let at = 0; at < body.length; at += 65_536) {
        request.write(body.subarray(at, at + 65_536));
      }
    } else if (body) request.write(body);
    request.end();
    if (abortMs !== undefined) setTimeout(() => done(), abortMs);
  });
}

function describe({ method, path, headers, body, isChunked }: Message): string {
  const shown = [
    `${method} ${path.replaceAll(/token=[^&]{40,}/g, "token=…")}`,
    JSON.stringify(headers).replaceAll(/Bearer [^"]{40,}/g, "Bearer …"),
  ];
  if (body) {
    shown.push(`${body.length} bytes${isChunked ? " chunked" : ""}: ${body.toString("latin1")}`);
  }
  return shown.join(" ");
}

export async function fuzzRequest(target: Target, random: Random): Promise<Case> {
  const { passes, marker } = target;
  const route = random.pick(ROUTES);
  const plain = route.path(random);
  const path = random.chance(0.15) ? mutatePath(plain, random, marker) : plain;
  const method = random.chance(0.1) ? random.pick(METHODS) : route.method;
  const valid: Record<string, string> = { "Content-Type": route.contentType };
  if (route.bearer) valid.Authorization = `Bearer ${passes[route.bearer]}`;
  let body: Buffer | undefined;
  if (route.body && method !== "GET" && method !== "HEAD") {
    const value = route.body(random);
    const text = typeof value === "string" ? value : mutateJson(value, random, marker);
    body = mutateBytes(text, random);
    if (random.chance(0.03)) body = Buffer.concat([body, Buffer.alloc(OVERSIZE_BYTES, 0x20)]);
  }
  const message: Message = {
    method,
    path: path + mutateQuery(route.query(passes, random), random, marker),
    headers: mutateHeaders(valid, random, marker),
    body,
    isChunked: random.chance(0.3),
    abortMs: random.chance(0.03) ? random.int(0, 20) : undefined,
    streamMs: random.int(0, 300),
  };
  return { what: describe(message), fault: await send(target, message) };
}

/** One method on one route, with valid input: `number` counts through all pairs. */
export async function sweepMethods(target: Target, number: number, random: Random): Promise<Case> {
  const route = ROUTES[number % ROUTES.length] as (typeof ROUTES)[number];
  const method = METHODS[Math.floor(number / ROUTES.length) % METHODS.length] as string;
  const query = new URLSearchParams(route.query(target.passes, random));
  const message: Message = {
    method,
    path: `${route.path(random)}?${query}`,
    headers: {
      Origin: "https://app.example",
      ...(method === "OPTIONS" && { "Access-Control-Request-Method": route.method }),
      ...(route.bearer && { Authorization: `Bearer ${target.passes[route.bearer]}` }),
      "Content-Type": route.contentType,
    },
    ...(route.body && !["GET", "HEAD"].includes(method) && { body: bytesOf(route.body(random)) }),
  };
  return { what: describe(message), fault: await send(target, message) };
}

function bytesOf(value: unknown): Buffer {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
}

/** Bytes that are hardly HTTP: the server has to survive them. */
export async function fuzzBytes(target: Target, random: Random): Promise<Case> {
  const { stage, passes, marker } = target;
  const { method, path: pathOf } = random.pick(ROUTES);
  const path = pathOf(random);
  const post = `POST ${path} HTTP/1.1\r\nHost: x\r\n`;
  const text = random.pick([
    `${method} ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n`,
    `${post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `${post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n${marker}`,
    `${post}Authorization: Bearer ${passes.ingest}\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"half":`,
    `GET ${path} HTTP/1.1\r\nHost: x\r\nHost: y\r\n${"A: b\r\n".repeat(random.int(1, 3_000))}\r\n`,
    `GET //${marker}\\..\\ HTTP/1.1\r\nHost: x\r\n\r\n`,
    `GET http://${marker}.example/ HTTP/1.1\r\nHost: x\r\n\r\n`,
    `GET ${path} HTTP/1.1\r\nHost: \u0000\r\n\r\n`,
    `GET ${path} HTTP/9.9\r\n\r\n`,
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    Array.from({ length: 200 }, () => String.fromCharCode(random.int(0, 255))).join(""),
  ]);
  await new Promise<void>((resolve) => {
    const port = Number(new URL(stage.url).port);
    const socket = connect(port, "127.0.0.1", () => socket.write(mutateBytes(text, random)));
    socket.on("error", () => {}).on("close", () => resolve());
    socket.resume();
    setTimeout(() => socket.destroy(), random.int(20, 300));
  });
  return { what: `bytes ${JSON.stringify(text)}` };
}
