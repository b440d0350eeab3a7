import { type PresenceEvents, VeraniClient } from "rollcall/client";
import { FanoutClient, publish } from "rollcall/fanout";

/** The statuses of this app's room. */
interface Events {
  in: { "presence.status": { status: "here" | "lunch" } };
  out: PresenceEvents["out"];
}

async function logIn(server: string, name: string, password: string): Promise<string> {
  const body = JSON.stringify({ name, password });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`${server}/login`, { method: "POST", headers, body });
  if (!response.ok) throw new Error(`${name} may not log in: ${response.status}`);
  return ((await response.json()) as { token: string }).token;
}

/** Ann and Bob log in and meet; then Ann asks Bob a question, and his client answers. */
export default async function demo(server: string): Promise<void> {
  await logIn(server, "ann", "wrong").catch((error: Error) => console.log(error.message));

  const join = (name: string, password: string) =>
    new VeraniClient<Events>(`${server}/ws/presence`, {
      token: () => logIn(server, name, password),
    });
  const next = (client: VeraniClient<Events>, event: keyof Events["out"]) =>
    new Promise<void>((resolve) => client.once(event, () => resolve()));

  const ann = join("ann", "correct-horse");
  await next(ann, "presence.sync");
  ann.on("presence.online", ({ username }) => console.log(`ann: ${username} is here`));
  const bobCame = next(ann, "presence.online");
  const bob = join("bob", "battery-staple");
  await bobCame;

  const inbox = new FanoutClient(server, { token: () => logIn(server, "bob", "battery-staple") });
  inbox.subscribe({ type: "question" }, ({ payload }) => {
    console.log(`bob: ann asks "${payload.text}"`);
    return { answer: "pizza" };
  });
  const token = await logIn(server, "ann", "correct-horse");
  const question = { userId: "bob", type: "question", payload: { text: "what for lunch?" } };
  let answer = await publish({ url: server, token }, question);
  // No client has it while Bob's is still connecting.
  while (answer.clientCount === 0) answer = await publish({ url: server, token }, question);
  console.log(`ann: bob answers ${JSON.stringify(answer.results)}`);

  inbox.disconnect();
  bob.close();
  ann.close();
}
