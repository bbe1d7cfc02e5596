// What is recommended to a user, with what each score is made of: the bias and each past event's contribution.

import { ask, inPath } from "./api.js";
import { trouble } from "./access.js";
import { badge, h, put, s } from "./dom.js";
import { ago, figure, plural, releaseName } from "./format.js";
import { learn, thing } from "./things.js";

const K = 10, COLOURS = 5, WIDTH = 200;

export function recommendations(user) {
  return new Recommendations(user);
}

class Recommendations {
  constructor(user) {
    this.user = user;
    this.items = [];
    this.rows = []; // of the timeline: [event, element]
    this.body = h("div", {}, h("p", { class: "quiet" }, "Looking…"));
    this.noted = h("p", { class: "quiet" });
    this.legend = h("ul", { class: "legend" });
    this.root = h("section", { class: "panel" }, h("h2", {}, "Recommended"), this.noted, this.legend, this.body);
  }

  order() {
    return this.items.map(({ item_id: id }) => id);
  }

  // before: item ids as they were, so that moves are shown.
  async show(before) {
    try {
      const answer = await this.#ask();
      this.items = answer.items;
      this.items.forEach(learn);
      this.noted.textContent = answer.source === "popular" ? `Popular items: nothing personal is known. ${answer.degraded ? "The store did not answer." : ""}`
        : `From release ${releaseName(answer.release)}${this.items.some(({ reasons }) => reasons) ? "; a score is the item's bias and what each event adds. Open a bar to read it." : "."}`;
      this.#colour();
      put(this.body, this.items.length ? h("ol", { class: "rows ranked" }, this.items.map((item, place) => this.#row(item, place, before))) : h("p", { class: "quiet" }, "Nothing is left to recommend."));
      this.#markRows();
    } catch (error) {
      put(this.legend);
      put(this.body, trouble(error, () => this.show(before)));
    }
  }

  // With reasons to who has the key.
  async #ask() {
    const path = `/v1/recommendations?user=${inPath(this.user)}&k=${K}&details=true`;
    try {
      return await ask(`${path}&explain=true`);
    } catch (error) {
      if (!error.needsKey) throw error;
      return ask(path);
    }
  }

  // Rows of the timeline, each with its event, show the colour of that, once it has one.
  mark(rows) {
    this.rows = rows;
    this.#markRows();
  }

  #markRows() {
    for (const [entry, row] of this.rows) this.#markRow(entry, row);
    this.rows[0]?.[1].parentElement?.classList.toggle("marked", Boolean(this.colours?.size));
  }

  #markRow(entry, row) {
    const colour = this.colours?.get(name(entry));
    row.querySelector(".mark").className = colour === undefined ? "mark" : `mark key s${colour}`;
  }

  // The events that matter most over all items have a colour each.
  #colour() {
    const sums = new Map();
    for (const { reasons } of this.items) {
      for (const event of reasons?.events || []) sums.set(name(event), (sums.get(name(event)) || 0) + Math.abs(event.contribution));
    }
    const most = [...sums].sort((one, other) => other[1] - one[1]).slice(0, COLOURS);
    this.colours = new Map(most.map(([event], place) => [event, place]));
    this.widest = Math.max(1e-9, negatives(this.items) + Math.max(0, ...this.items.map(({ reasons }) => (reasons ? above(reasons) : 0))));
    const events = this.items.flatMap(({ reasons }) => reasons?.events || []);
    put(this.legend, this.colours.size ? [...this.colours].map(([event, place]) => {
      const found = events.find((one) => name(one) === event);
      return h("li", {}, h("i", { class: `key s${place}` }), `${found.kind || "event"} of ${found.item_id || "?"}`);
    }) : [], sums.size > COLOURS ? h("li", {}, h("i", { class: "key rest" }), "other events") : [], this.colours.size ? h("li", {}, h("i", { class: "key bias" }), "bias") : []);
  }

  #row(item, place, before) {
    const was = before ? before.indexOf(item.item_id) : place;
    const move = was === place ? null : was < 0 ? badge("new", "good") : was > place ? badge(`▲ ${was - place}`, "good") : badge(`▼ ${place - was}`, "warn");
    return h("li", { class: "row ranking" }, h("span", { class: "rank" }, place + 1), thing(item.item_id), h("span", { class: "moved" }, move),
      h("span", { class: "score" }, figure(item.score)), item.reasons ? this.#why(item) : null);
  }

  #why({ item_id: id, reasons }) {
    const parts = [...reasons.events].sort((one, other) => Math.abs(other.contribution) - Math.abs(one.contribution));
    const table = h("table", {}, h("caption", { class: "unseen" }, `What the score of ${id} is made of`),
      h("thead", { class: "unseen" }, h("tr", {}, ["Because of", "When", "Adds"].map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, [...parts.map((event) => [event.item_id ? `${event.kind} of ${event.item_id}` : `${event.kind || "event"} of an unknown item`, ago(event.time_ms), event.contribution]),
        ["bias of the item", "", reasons.bias]].map(([what, when, value]) => h("tr", {}, h("th", { scope: "row" }, what), h("td", { class: "quiet" }, when), h("td", { class: "number" }, signed(value))))));
    return h("details", { class: "why" }, h("summary", {}, this.#bar(parts, reasons.bias), h("span", { class: "unseen" }, `Why ${id}: ${plural(parts.length, "reason")}`)), table);
  }

  // What adds goes to the right of the middle line, what takes away to the left.
  #bar(events, bias) {
    const parts = [...events.map((event) => [event.contribution, this.colours.has(name(event)) ? `s${this.colours.get(name(event))}` : "rest", `${event.kind} of ${event.item_id || "?"}`]), [bias, "bias", "bias"]];
    const scale = WIDTH / this.widest;
    let left = negatives(this.items) * scale, right = left;
    const zero = left;
    const bar = s("svg", { class: "whybar", viewBox: `0 0 ${WIDTH} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const [value, kind, title] of parts) {
      const width = Math.abs(value) * scale;
      const x = value >= 0 ? right : left - width;
      if (value >= 0) right += width;
      else left -= width;
      bar.append(s("rect", { class: `fill ${kind}`, x, width: Math.max(0, width - 0.6), y: 0, height: 10 }, s("title", {}, `${title} ${signed(value)}`)));
    }
    bar.append(s("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: 10 }));
    return bar;
  }
}

const name = (event) => event.entry || `${event.item_id}/${event.time_ms}`;
const values = (reasons) => [...reasons.events.map((event) => event.contribution), reasons.bias];
const below = (reasons) => values(reasons).reduce((sum, value) => sum + Math.max(0, -value), 0);
const above = (reasons) => values(reasons).reduce((sum, value) => sum + Math.max(0, value), 0);
const negatives = (items) => Math.max(0, ...items.map(({ reasons }) => (reasons ? below(reasons) : 0)));
const signed = (value) => (value > 0 ? `+${figure(value)}` : figure(value));
