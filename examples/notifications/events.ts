export interface Notification {
  id: string;
  text: string;
  /** Server time in ms. */
  at: number;
  isRead: boolean;
}

/** What the feed and a user's devices say to each other. */
export interface FeedEvents {
  in: { read: { id: string } };
  out: {
    /** The latest first, to a device that connects. */
    feed: { items: Notification[]; unread: number };
    pushed: Notification;
    /** One was read, on whichever device. */
    read: { id: string; unread: number };
  };
  acks: { read: { unread: number } };
}
