/** What the room of cut.worker.ts and its clients say to each other. */
export interface CounterEvents {
  in: { count: { key: string }; counts: undefined };
  out: Record<string, never>;
  acks: { count: { times: number }; counts: Record<string, number> };
}
