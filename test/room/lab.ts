/** The room `Lab` as tests call it. */
import { env } from "cloudflare:workers";
import type { ActorStub } from "../../src/actor/stub.ts";
import type { Lab } from "./rooms.ts";
import { freshName } from "./socket.ts";

export type LabStub = DurableObjectStub<Lab> & ActorStub;

export function newLab(): LabStub {
  return env.LAB.getByName(freshName()) as LabStub;
}

export async function read(stub: ActorStub, name: string, data?: unknown): Promise<unknown> {
  const result = await stub.ingest(name, data);
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
}

export async function journal(stub: ActorStub): Promise<string[]> {
  return (await read(stub, "journal")) as string[];
}

export async function times(stub: ActorStub, entry: string): Promise<number> {
  return (await journal(stub)).filter((line) => line === entry).length;
}
