/**
 * Every route and socket of the service, and what it answers to whom: the table in docs/security.md is
 * made of this, and test/e2e/access.test.ts tries each of it at a server with production's settings.
 */

/** What is shown at a door. */
export type Credential =
  /** A user's JWT. */
  | "jwt"
  /** The same, in the payload of LiveStore's sync. */
  | "sync"
  /** A presence token. */
  | "presence"
  /** The ingest token, or a daemon's own. */
  | "ingest"
  /** `PRESENCE_DO_MINT_TOKEN`. */
  | "mint"
  /** `SERVER_BYPASS_TOKEN`. */
  | "server"
  /** Nothing. */
  | "none";

export interface Door {
  /** The method and path, as the descriptions of the API write it. */
  door: string;
  socket?: true;
  /** In Markdown. */
  who: string;
  credential: Credential;
  /** Operations of a grant, of which one is needed. */
  operations?: readonly string[];
  /** Answers are for no page of another origin, and for no cache. */
  isForBackends?: true;
  /** HTTP statuses. A socket of protocol 3 is closed with 4401 and 4403 instead of 401 and 403. */
  answers: Answers;
}

export interface Answers {
  /** Without any token. */
  none: number;
  /**
   * With one that is malformed, of another algorithm or key, expired, not yet valid, of another issuer or
   * audience, revoked, or whose key was withdrawn.
   */
  invalid: number;
  /** With a valid one that does not allow this. */
  noGrant: number;
  /** With a valid one that allows this for another user, room, device or workspace. */
  others: number;
  valid: number;
}

const answers = (
  none: number,
  invalid: number,
  noGrant: number,
  others: number,
  valid: number,
): Answers => ({ none, invalid, noGrant, others, valid });
const JWT = answers(401, 401, 403, 403, 200);
const PRESENCE = answers(401, 403, 403, 403, 200);
const BACKEND = answers(401, 401, 401, 401, 204);
const OPEN = answers(200, 200, 200, 200, 200);
const CLOSED = answers(403, 403, 403, 403, 403);
/** For sockets, a valid token's. */
const UPGRADED = { valid: 101 };
const SUBSCRIBER = { credential: "jwt", operations: ["subscribe"] } as const;
const ROOM_READER = { credential: "jwt", operations: ["join", "watch"] } as const;
/** For backends, by what a user's JWT allows. */
const operator = (operation: string) =>
  ({ credential: "jwt", operations: [operation], isForBackends: true, answers: JWT }) as const;
const MINTER = { credential: "mint", isForBackends: true } as const;

const ROOM = "`join` or `watch` on `room:<name>`; `workspace:<id>` only its members";
/** Of the room's own operations. */
const on = (operation: string) =>
  `\`${operation}\` on \`room:<name>\`; \`workspace:<id>\` only its members`;
const SUBSCRIBE = "`subscribe` on `user:<self>`";
const WATCH = "a presence token of that user, with the scope `presence:read`";
const MOODS = "everybody, where `DEFAULT_CAP` has `moods`: `join`";
const SYNC =
  "a member of the workspace by the token's `workspaces`: `owner`, `admin` and `member` pull and push, `viewer` pulls; or `SERVER_BYPASS_TOKEN`";

export const DOORS: readonly Door[] = [
  {
    door: "GET /ws/presence",
    socket: true,
    who: `${ROOM}; to set a state, \`state\``,
    ...ROOM_READER,
    answers: { ...JWT, ...UPGRADED },
  },
  { door: "GET /api/v1/presence", who: ROOM, ...ROOM_READER, answers: JWT },
  { door: "GET /api/v1/rooms/{room}", who: ROOM, ...ROOM_READER, answers: JWT },
  {
    door: "GET /api/v1/rooms/{room}/stream",
    who: on("watch"),
    credential: "jwt",
    operations: ["watch"],
    answers: JWT,
  },
  { door: "POST /api/v1/rooms/{room}/events", who: on("publish"), ...operator("publish") },
  { door: "POST /api/v1/rooms/{room}/events/batch", who: on("publish"), ...operator("publish") },
  { door: "GET /api/v1/rooms/{room}/changes", who: on("watch"), ...operator("watch") },
  { door: "DELETE /api/v1/rooms/{room}/users/{id}", who: on("kick"), ...operator("kick") },
  {
    door: "GET /ws/fanout",
    socket: true,
    who: SUBSCRIBE,
    ...SUBSCRIBER,
    answers: { ...JWT, ...UPGRADED },
  },
  {
    door: "GET /",
    socket: true,
    who: SUBSCRIBE,
    ...SUBSCRIBER,
    answers: { ...JWT, ...UPGRADED },
  },
  { door: "GET /fanout/stream", who: SUBSCRIBE, ...SUBSCRIBER, answers: JWT },
  {
    door: "POST /publish",
    who: "`publish` on `user:<id>`",
    credential: "jwt",
    operations: ["publish"],
    answers: JWT,
  },
  {
    door: "POST /publish/batch",
    who: "`publish` on `user:<id>` of each message: others are refused in the answer",
    credential: "jwt",
    operations: ["publish"],
    answers: { ...JWT, others: 200 },
  },
  {
    door: "GET /ws/devices",
    socket: true,
    who: WATCH,
    credential: "presence",
    answers: { ...PRESENCE, ...UPGRADED },
  },
  {
    door: "GET /ws/devices/beat",
    socket: true,
    who: "the ingest token; a daemon's own token for its device",
    credential: "ingest",
    answers: { ...BACKEND, others: 403, ...UPGRADED },
  },
  { door: "GET /api/v1/mobile/presence", who: WATCH, credential: "presence", answers: PRESENCE },
  {
    door: "GET /api/v1/mobile/presence/stream",
    who: WATCH,
    credential: "presence",
    answers: PRESENCE,
  },
  {
    door: "POST /api/v1/daemon/presence/heartbeat",
    who: "the ingest token; a daemon's own token for its device",
    credential: "ingest",
    answers: { ...BACKEND, others: 403 },
  },
  {
    door: "POST /api/v1/daemon/presence/heartbeats",
    who: "the same; heartbeats of other devices are refused in the answer",
    credential: "ingest",
    answers: { ...BACKEND, others: 200, valid: 200 },
  },
  {
    door: "POST /api/v1/presence/tokens",
    who: "the minting token",
    ...MINTER,
    answers: { ...BACKEND, valid: 201 },
  },
  {
    door: "POST /api/v1/devices/tokens",
    who: "the minting token",
    ...MINTER,
    answers: { ...BACKEND, valid: 201 },
  },
  {
    door: "DELETE /api/v1/users/{id}",
    who: "the minting token",
    ...MINTER,
    answers: BACKEND,
  },
  {
    door: "GET /api/v1/users/{id}",
    who: "`presence` on `user:<id>`",
    ...operator("presence"),
  },
  {
    door: "POST /api/v1/users/{id}/revoke",
    who: "`revoke` on `user:<id>`",
    ...operator("revoke"),
  },
  {
    door: "POST /api/v1/users/{id}/disconnect",
    who: "`revoke` on `user:<id>`",
    ...operator("revoke"),
  },
  {
    door: "GET /ws/people",
    socket: true,
    who: "every user; those of whom the grant has no `presence` on `user:<id>` are shown as offline",
    credential: "jwt",
    answers: { ...JWT, noGrant: 101, others: 101, ...UPGRADED },
  },
  {
    door: "GET /sync",
    socket: true,
    who: SYNC,
    credential: "sync",
    answers: { ...JWT, ...UPGRADED },
  },
  { door: "POST /sync", who: SYNC, credential: "sync", answers: JWT },
  {
    door: "DELETE /api/v1/workspaces/{id}",
    who: "`SERVER_BYPASS_TOKEN`",
    credential: "server",
    isForBackends: true,
    answers: BACKEND,
  },
  {
    door: "POST /api/upload-image",
    who: "`upload` on `images`",
    credential: "jwt",
    operations: ["upload"],
    answers: JWT,
  },
  {
    door: "DELETE /api/images/{key}",
    who: "`delete` on `images`, of one's own",
    credential: "jwt",
    operations: ["delete"],
    answers: { ...JWT, others: 404, valid: 204 },
  },
  { door: "GET /api/images/{key}", who: "everybody", credential: "none", answers: OPEN },
  {
    door: "POST /api/llm/chat/completions",
    who: "`call` on `llm`",
    credential: "jwt",
    operations: ["call"],
    answers: JWT,
  },
  { door: "GET /api/llm/tools", who: "everybody", credential: "none", answers: OPEN },
  { door: "POST /api/session", who: MOODS, credential: "none", answers: OPEN },
  {
    door: "POST /api/heartbeat",
    who: `${MOODS}, with a session id that the server has issued`,
    credential: "none",
    answers: OPEN,
  },
  {
    door: "POST /api/leave",
    who: "everybody who knows the session id",
    credential: "none",
    answers: OPEN,
  },
  {
    door: "GET /ws/moods",
    socket: true,
    who: `${MOODS}, with a session id that the server has issued`,
    credential: "none",
    answers: answers(101, 101, 101, 101, 101),
  },
  { door: "GET /api/presence", who: "everybody", credential: "none", answers: OPEN },
  { door: "GET /api/presence/stream", who: "everybody", credential: "none", answers: OPEN },
  { door: "GET /docs", who: "everybody", credential: "none", answers: OPEN },
  { door: "GET /openapi.json", who: "everybody", credential: "none", answers: OPEN },
  { door: "GET /asyncapi.json", who: "everybody", credential: "none", answers: OPEN },
  { door: "GET /rollcall.js", who: "everybody", credential: "none", answers: OPEN },
  { door: "GET /rollcall.mjs", who: "everybody", credential: "none", answers: OPEN },
  ...["presence", "actors/presence/{name}", "actors/fanout/{name}", "actors/devices/{name}"].map(
    (path): Door => ({
      door: `GET /debug/${path}`,
      who: "everybody in development, nobody elsewhere",
      credential: "none",
      answers: CLOSED,
    }),
  ),
  ...["GET /admin", "GET /console/config.json"].map(
    (door): Door => ({
      door,
      who: "everybody in development, or where `CONSOLE` is `on`: a page without rights of its own",
      credential: "none",
      answers: answers(404, 404, 404, 404, 404),
    }),
  ),
  ...["session", "heartbeat"].map(
    (name): Door => ({
      door: `POST /debug/console/${name}`,
      who: "the console in development, on the server's own machine; nobody elsewhere",
      credential: "none",
      answers: CLOSED,
    }),
  ),
];

/** The table of docs/security.md. */
export function tableOfDoors(): string {
  const rows = DOORS.map(({ door, socket, who, answers }) => {
    const { none, invalid, noGrant, others, valid } = answers;
    const name = `\`${door}\`${socket ? " (socket)" : ""}`;
    return `| ${name} | ${who} | ${none} | ${invalid} | ${noGrant} | ${others} | ${valid} |`;
  });
  return [
    "| door | who may use it | without a token | with an invalid one | without the grant | for another's | with a valid one |",
    "|---|---|---|---|---|---|---|",
    ...rows,
  ].join("\n");
}
