// One user: what was done, what is recommended, and why.

import { ask, inPath } from "./api.js";
import { trouble } from "./access.js";
import { asking, badge, button, confirmed, empty, h, panel, put, tell, working } from "./dom.js";
import { ago, count, moment, plural, releaseName } from "./format.js";
import { recommendations } from "./reasons.js";
import { thing } from "./things.js";

const SEEN_EVERY_MS = 200, SEEN_WITHIN_MS = 6000;

export function users(main, _, id) {
  const body = h("div", {});
  put(main, h("h1", {}, "Users"), asking("User id", id, (user) => (location.hash = `#/users/${inPath(user)}`), { placeholder: "as your pages send it" }), body);
  if (id) new User(id, body).show();
  else newest(body);
}

async function newest(body) {
  const list = h("div", {}, h("p", { class: "quiet" }, "Looking for the newest events…"));
  put(body, h("section", { class: "panel" }, h("div", { class: "head" }, h("h2", {}, "Seen lately"), button("Look again", () => look(), { class: "small" })), list));
  const look = async () => {
    try {
      const { events } = await ask("/v1/console/events?limit=20");
      put(list, events.length ? h("ul", { class: "rows" }, events.map((event) => h("li", { class: "row event" },
        h("a", { class: "who", href: `#/users/${inPath(event.user_id)}` }, event.user_id), badge(event.kind), thing(event.item_id),
        h("time", { class: "quiet", title: moment(event.time_ms) }, ago(event.time_ms)))))
        : empty("No events yet", "Send one to POST /v1/events, or put the tracker into a page; whoever does something appears here."));
    } catch (error) {
      put(list, trouble(error, look));
    }
  };
  await look();
}

class User {
  constructor(id, body) {
    this.id = id;
    this.head = h("div", {});
    this.timeline = h("div", {}, h("p", { class: "quiet" }, "Looking…"));
    this.recommended = recommendations(id);
    this.wrong = h("div", {});
    put(body, this.head, this.wrong, h("div", { class: "two uneven" }, panel("Timeline", this.timeline), this.recommended.root));
  }

  path(entry) {
    return `/v1/users/${inPath(this.id)}${entry ? `/timeline/${inPath(entry)}` : ""}`;
  }

  async show() {
    await Promise.all([this.#read(), this.recommended.show()]);
  }

  async #read() {
    try {
      this.user = await ask(this.path());
      this.#draw();
    } catch (error) {
      this.user = null;
      put(this.head);
      put(this.timeline, error.status === 404 ? empty("Nobody knows this user", "No event of theirs was applied, or they were idle so long that they expired, or they were erased.",
        "What is recommended beside is what anybody gets: the popular items.") : trouble(error, () => this.#read()));
    }
  }

  #draw() {
    const { user, events, release, as_of: asOf } = this.user;
    const entries = this.user.timeline;
    put(this.head, h("div", { class: "head" }, h("div", {}, h("h2", { class: "big" }, user),
      h("p", { class: "quiet" }, `${plural(events, "event")} applied, ${count(entries.length)} in the timeline · last ${ago(asOf)} · release ${releaseName(release)}`)),
    h("div", { class: "row" }, button("Look again", () => this.show()),
      working("Erase…", () => this.#erase(), (error) => this.#fails(error), { class: "danger" }))));
    const rows = entries.map((entry) => [entry, this.#row(entry)]);
    put(this.timeline, rows.length ? h("ol", { class: "rows", "aria-label": "Timeline, newest first" }, rows.map(([, row]) => row))
      : empty("Nothing in the timeline", "All that was in it was struck."));
    this.recommended.mark(rows);
  }

  #row(entry) {
    const row = h("li", { class: "row event", "data-entry": entry.entry }, h("i", { class: "mark", "aria-hidden": "true" }), thing(entry.item_id, `an item that this release does not know (${entry.item_key})`),
      badge(entry.kind || "?"), h("time", { class: "quiet", title: moment(entry.time_ms) }, ago(entry.time_ms)));
    row.append(working("Strike", () => this.#strike(entry, row), (error) => this.#fails(error), { class: "small", "aria-label": `Strike ${entry.kind} of ${entry.item_id || entry.item_key}` }));
    return row;
  }

  async #strike(entry, row) {
    const what = `${entry.kind} of ${entry.item_id || "an unknown item"}, ${moment(entry.time_ms)}`;
    if (!(await confirmed("Strike this event?", [what, "It will be as if it had never happened: in the vector, in what is recommended, and in the next training. It cannot be taken back."], "Strike"))) return;
    put(this.wrong);
    row.classList.add("going");
    await ask(this.path(entry.entry), { method: "DELETE" });
    const before = this.recommended.order();
    if (await this.#until((user) => !user.timeline.some((one) => one.entry === entry.entry))) {
      tell(`Struck: ${what}.`);
      await Promise.all([this.#read(), this.recommended.show(before)]);
    } else tell("It is accepted, and not applied yet: the consumers are behind. Look again in a while.", true);
  }

  async #erase() {
    if (!(await confirmed(`Erase ${this.id}?`, ["Timeline, vector, and everything else that is kept of this user goes at once, and stays away: from a replay of the log, a restored backup and the next training.",
      "It cannot be taken back."], "Erase"))) return;
    put(this.wrong);
    const receipt = await ask(this.path(), { method: "DELETE" });
    await this.#until(() => false);
    await this.show();
    put(this.wrong, h("section", { class: "panel" }, h("h2", {}, "Receipt of the erasure"), h("pre", { tabindex: 0, "aria-label": "Receipt" }, JSON.stringify(receipt, null, 2)), h("p", { class: "quiet" }, "Keep it: it is shown once.")));
    tell(`${this.id} is erased.`);
  }

  // Whether the user came to be so in time; a user who is gone ends the waiting.
  async #until(isSo) {
    for (const end = Date.now() + SEEN_WITHIN_MS; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, SEEN_EVERY_MS))) {
      try {
        if (isSo(await ask(this.path()))) return true;
      } catch (error) {
        if (error.status === 404) return true;
        throw error;
      }
    }
    return false;
  }

  #fails(error) {
    put(this.wrong, trouble(error));
    this.timeline.querySelector(".going")?.classList.remove("going");
  }
}
