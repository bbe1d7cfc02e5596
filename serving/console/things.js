// Items as people know them: title and picture where the catalogue has them, the id where it has not.

import { ask, inPath } from "./api.js";
import { h } from "./dom.js";

const AT_ONCE = 6;
const KNOWN_MS = 30_000, MOST_KNOWN = 1000; // so that what a shop changes is seen, and a tab that stays open stays small
const known = new Map(); // by id, the newest last: what the catalogue said, or a promise of it, and when
const waiting = [];
let running = 0;

// What an answer said already, so that nobody asks again.
export function learn(item) {
  if (item.title || item.image) keep(item.item_id, item);
}

function keep(id, item) {
  known.delete(id);
  known.set(id, { item, at: Date.now() });
  if (known.size > MOST_KNOWN) known.delete(known.keys().next().value);
}

export function details(id) {
  const { item, at } = known.get(id) || {};
  if (Date.now() - at < KNOWN_MS) return item;
  keep(id, new Promise((resolve) => waiting.push([id, resolve])));
  work();
  return known.get(id).item;
}

async function work() {
  if (running >= AT_ONCE || !waiting.length) return;
  running += 1;
  const [id, resolve] = waiting.shift();
  try {
    resolve(await ask(`/v1/items/${inPath(id)}`));
  } catch {
    resolve({}); // an item without a title is shown by its id
    known.delete(id);
  }
  running -= 1;
  work();
}

// A colour of its own for a category, or an id: the same everywhere.
export function hue(text) {
  let sum = 7;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

// An address of the web as the catalogue has it, or null, as for "/…" where nobody knows the site it is of.
export function webAddress(text, site) {
  try {
    const url = new URL(text, site);
    return ["http:", "https:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

export function picture(item, size = "") {
  const id = item.item_id || "?";
  const letters = h("span", { class: `pic ${size}`, "aria-hidden": "true", style: { "--hue": hue(item.category || id) } }, (item.title || id).slice(0, 2));
  const url = item.image && webAddress(item.image, webAddress(item.url) || location.origin); // "/…" is where its page is
  if (!url) return letters;
  return h("img", { class: `pic ${size}`, src: url, alt: "", loading: "lazy", onerror: (event) => event.target.replaceWith(letters) });
}

// A row's beginning: picture, title and id, filled in once the catalogue has answered.
export function thing(id, fallback) {
  if (!id) return h("span", { class: "thing" }, picture({ item_id: "?" }), h("span", { class: "names" }, h("span", {}, fallback || "unknown item")));
  const made = h("a", { class: "thing", href: `#/items/${inPath(id)}` });
  const fill = (item) => made.replaceChildren(picture({ item_id: id, ...item }),
    h("span", { class: "names" }, h("span", { class: "title" }, item.title || id), item.title ? h("span", { class: "id" }, id) : ""));
  fill({});
  Promise.resolve(details(id)).then((item) => (item.title || item.image) && fill(item));
  return made;
}
