/** An item that the server recommends, with what the catalogue knows of it: fields of your own are there too, as texts. */
export interface Recommended {
  item_id: string;
  score: number;
  title?: string;
  url?: string;
  image?: string;
  category?: string;
  price?: number;
  currency?: string;
  stock?: number;
  [field: string]: string | number | undefined;
}

/** What a slot was filled with: `detail` of the event `ledstream:recs`. */
export interface Answer {
  items: Recommended[];
  /** Events that follow from the answer carry it in their context. */
  answer_id: string;
  release: string | null;
  source: "personal" | "popular";
}

/** Of a post: a verdict on each event, in order, or why it was refused as a whole. */
export interface Told {
  verdicts?: { status: "accepted" | "rejected" | "failed"; field?: string; reason?: string }[];
  error?: { field: string; reason: string };
}

export interface More {
  /** Money or a quantity, in your own unit. */
  value?: number;
  /** Up to 16 short texts. */
  context?: Record<string, string>;
}

export interface Options {
  /** Where the server is, as https://rec.example.org */
  endpoint: string;
  /** A write key of your site. */
  key?: string;
  /** Of the cookies; default: the page's own host. */
  domain?: string;
}

export interface Ledstream {
  /**
   * Begin with true, end with false, which also deletes cookies and whatever was not sent. Remembered for the next page.
   * Returns whether it is on: never where the browser asks for privacy (Global Privacy Control).
   */
  consent(isGiven: boolean): boolean;
  /** An event of any kind that the server knows. */
  track(kind: string, item: string | number, more?: More): void;
  view(item: string | number, more?: More): void;
  click(item: string | number, more?: More): void;
  sale(item: string | number, more?: More): void;
  /** The visitor is this user from now on; what was done before belongs to the user, too. */
  identify(user: string): void;
  /** The visitor is nobody known from now on: after a log-out. */
  reset(): void;
  /** Look through the page for data-ledstream attributes that are new since the last time. */
  scan(): void;
  /** Ask again for what the slots show. */
  refresh(): void;
  /** Send what waits, now. Resolves to what the server said of it; to nothing if nothing was sent, or no answer came. */
  flush(): Promise<Told | undefined>;
}

export function ledstream(options: Options): Ledstream;

declare global {
  interface Window {
    ledstream: Ledstream & { push(call: [name: string, ...given: unknown[]]): void };
  }
  interface HTMLElementEventMap {
    "ledstream:recs": CustomEvent<Answer>;
  }
}
