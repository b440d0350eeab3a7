export interface Message {
  channel: string;
  from: string;
  text: string;
  /** Server time in ms. */
  at: number;
}

/** What the room and its clients say to each other: one map types both ends. */
export interface ChatEvents {
  in: {
    join: { channel: string };
    leave: { channel: string };
    say: { channel: string; text: string };
    typing: { channel: string };
  };
  out: { said: Message; typing: { channel: string; from: string } };
  acks: { join: { history: Message[] }; say: { at: number } };
}
