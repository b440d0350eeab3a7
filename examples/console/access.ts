import type { Heartbeat } from "../../rooms/devices/device.ts";

/** A heartbeat as a daemon posts it. */
export type { Heartbeat };

/** Who uses the console, and the tokens that each contract asks for. */
export interface Access {
  /** `userId` in the rooms. */
  readonly name: string;
  /** Whose devices are watched; null where nothing was brought that would allow it. */
  readonly userUuid: string | null;
  jwt(): Promise<string>;
  presenceToken(): Promise<string>;
  /** Posts a heartbeat. @throws when it was not accepted */
  beat(heartbeat: Heartbeat): Promise<void>;
}

/** Time a token must have left to be used, in ms. */
const RESERVE_MS = 60_000;

interface Grant {
  userUuid: string;
  jwt: string;
  presenceToken: string;
  expiresAtMs: number;
}

async function post(path: string, body: unknown, bearer?: string): Promise<Response> {
  const headers: Record<string, string> = { "Content-Type": "application/json" };
  if (bearer !== undefined) headers.Authorization = `Bearer ${bearer}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (answer.ok) return answer;
  const { error, details } = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
  throw new Error(String(details ?? error ?? `${path} answered ${answer.status}`));
}

/** Asks the server of development for tokens, anew when they are about to expire. */
export async function accessOfDevelopment(name: string): Promise<Access> {
  async function ask(): Promise<Grant> {
    return (await post("/debug/console/session", { name })).json();
  }
  let grant = await ask();
  let asking: Promise<Grant> | null = null;
  async function current(): Promise<Grant> {
    if (grant.expiresAtMs - Date.now() > RESERVE_MS) return grant;
    asking ??= ask().finally(() => {
      asking = null;
    });
    grant = await asking;
    return grant;
  }
  return {
    name,
    userUuid: grant.userUuid,
    jwt: async () => (await current()).jwt,
    presenceToken: async () => (await current()).presenceToken,
    async beat(heartbeat) {
      await post("/debug/console/heartbeat", heartbeat);
    },
  };
}

/** What people paste where the server hands nothing out. It stays in the page's memory. */
export interface OwnTokens {
  jwt: string;
  /** For the devices; both or none. */
  mintToken: string;
  userUuid: string;
}

/** @throws Error when the JWT cannot be read; only the server can tell whether it is good */
export function accessOf({ jwt, mintToken, userUuid }: OwnTokens): Access {
  const userId = userIdOf(jwt);
  async function mint(path: string, device_id: string): Promise<string> {
    const answer = await post(path, { user_id: userUuid, device_id }, mintToken);
    return ((await answer.json()) as { token: string }).token;
  }
  /** Each daemon's own token, by its device. */
  const daemonTokens = new Map<string, string>();
  return {
    name: userId,
    userUuid: userUuid === "" || mintToken === "" ? null : userUuid,
    jwt: async () => jwt,
    presenceToken: () => mint("/api/v1/presence/tokens", userUuid),
    async beat(heartbeat) {
      const { device_id } = heartbeat;
      const token =
        daemonTokens.get(device_id) ?? (await mint("/api/v1/devices/tokens", device_id));
      daemonTokens.set(device_id, token);
      await post("/api/v1/daemon/presence/heartbeat", heartbeat, token);
    },
  };
}

function userIdOf(jwt: string): string {
  try {
    const payload = (jwt.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    const { userId, sub } = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    // As on the server: login providers send only `sub`.
    const user = userId ?? sub;
    if (typeof user === "string" && user !== "") return user;
  } catch {
    // Said below.
  }
  throw new Error("That is no JWT with a userId.");
}
