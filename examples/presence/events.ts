/** What the room and its clients say to each other: one map types both ends. */
export interface LobbyEvents {
  in: { wave: { to: string } };
  out: {
    here: { users: string[] };
    joined: { user: string };
    left: { user: string };
    waved: { from: string };
  };
}
