// One item: what the catalogue says, what is like it, where it lies, and how often it was wanted.

import { ask, inPath } from "./api.js";
import { trouble } from "./access.js";
import { asking, badge, button, empty, h, panel, put } from "./dom.js";
import { Chart } from "./charts.js";
import { count, figure, moment, plural, price, releaseName } from "./format.js";
import { CatalogueMap } from "./map.js";
import { learn, picture, webAddress, thing } from "./things.js";

const NEIGHBOURS = 12, FOUND = 20;
const SPANS = { hour: "48 hours", day: "28 days" };
const ELSEWHERE = new Set(["item_id", "title", "image", "currency", "release", "in_release", "popularity", "withheld"]);
const FIRST = ["category", "price", "stock", "url"]; // before fields of the shop's own

export function items(main, _, id) {
  const found = h("div", {}), body = h("div", {});
  put(main, h("h1", {}, "Items"), asking("Item id or title", id, (text) => search(text, found), { placeholder: "hat-01, or a word of its title" }), found, body);
  const map = new CatalogueMap((chosen) => (location.hash = `#/items/${inPath(chosen)}`));
  if (id) one(id, body, map);
  else {
    put(body, map.root);
    map.show();
  }
}

async function search(text, found) {
  if (!text) return;
  try {
    const answer = await ask(`/v1/items?q=${inPath(text)}&k=${FOUND}`);
    const all = answer.items;
    all.forEach(learn);
    if (all.length === 1 || all.some(({ item_id: id }) => id === text)) {
      location.hash = `#/items/${inPath(all.length === 1 ? all[0].item_id : text)}`;
      return;
    }
    put(found, all.length ? panel(plural(all.length, "item"), h("ul", { class: "rows" }, all.map(({ item_id: id }) => h("li", { class: "row" }, thing(id)))))
      : empty(`Nothing is called ${text}`, "Items are found by id, or by words of their titles, once the catalogue has them: PUT /v1/items."));
  } catch (error) {
    put(found, trouble(error));
  }
}

async function one(id, body, map) {
  const about = h("div", {}, h("p", { class: "quiet" }, "Looking…")), near = h("div", {}), popular = h("div", {});
  put(body, about, h("div", { class: "two uneven" }, panel("Most like it", near), map.root), popular);
  const shown = Promise.all([metadata(id, about), neighbours(id, near), popularity(id, popular)]);
  const [, ids] = await shown;
  map.show(id, ids);
}

async function metadata(id, about) {
  let item = { item_id: id };
  let missing = null;
  try {
    item = { ...item, ...(await ask(`/v1/items/${inPath(id)}`)) };
  } catch (error) {
    if (error.status !== 404) return put(about, trouble(error));
    missing = "Neither the catalogue nor the current release knows this item.";
  }
  learn(item);
  const names = new Set([...FIRST, ...Object.keys(item)].filter((name) => !ELSEWHERE.has(name)));
  const facts = [...names].filter((name) => item[name] !== null && item[name] !== undefined && item[name] !== "")
    .map((name) => [h("dt", {}, name), h("dd", {}, fact(item, name))]);
  const inRelease = item.in_release;
  return put(about, h("div", { class: "head" }, picture(item, "large"), h("div", {}, h("h2", { class: "big" }, item.title || id),
    h("p", { class: "quiet" }, item.title ? `${id} ` : "", inRelease === undefined ? "" : inRelease ? badge("in the release", "good") : badge("not in the release", "warn"),
      item.withheld ? [" ", badge("withheld: out of stock or deleted", "warn")] : ""),
    missing ? h("p", { class: "quiet" }, missing) : h("dl", { class: "facts inline" }, facts))));
}

function fact(item, name) {
  const value = item[name];
  if (name === "price") return price(value, item.currency);
  if (name === "stock") return count(value);
  const address = name === "url" && webAddress(value);
  return address ? h("a", { href: address, rel: "noreferrer" }, value) : String(value);
}

// Shows the neighbours; resolves to their ids.
async function neighbours(id, near) {
  try {
    const { items: found, release } = await ask(`/v1/items/${inPath(id)}/similar?k=${NEIGHBOURS}`);
    const most = Math.max(1e-9, ...found.map(({ score }) => score));
    put(near, h("p", { class: "quiet" }, `Recommended to who saw this item alone, by release ${releaseName(release)}.`),
      h("ol", { class: "rows" }, found.map(({ item_id: other, score }) => h("li", { class: "row" }, thing(other),
        h("meter", { min: 0, max: most, value: Math.max(0, score), "aria-label": `Score of ${other}` }), h("span", { class: "score" }, figure(score))))));
    return found.map(({ item_id: other }) => other);
  } catch (error) {
    put(near, error.status === 404 ? empty("The current release does not know it", "Nobody did anything with it before the last training, or too few did. It is learned with the next.") : trouble(error));
    return [];
  }
}

async function popularity(id, body) {
  const chart = new Chart({ title: "Events", series: ["events"], kind: "bar", y: count, height: 160, wholeY: true, x: (at) => moment(at).slice(5, 16) });
  const wrong = h("div", {});
  const show = async (by) => {
    for (const one of buttons) one.setAttribute("aria-pressed", String(one.textContent === SPANS[by]));
    try {
      const parts = await ask(`/v1/items/${inPath(id)}/popularity?by=${by}`);
      const any = parts.some(({ events }) => events);
      put(wrong, any ? [] : h("p", { class: "quiet" }, "No event of it in this time. Events are counted within some ten seconds."));
      chart.set(any ? parts.map(({ from_ms: from }) => from) : [], [any ? parts.map(({ events }) => events) : []]);
    } catch (error) {
      put(wrong, error.status === 404 ? h("p", { class: "quiet" }, "Nobody counts events here.") : trouble(error));
    }
  };
  const buttons = Object.entries(SPANS).map(([by, name]) => button(name, () => show(by), { class: "small" }));
  chart.root.prepend(h("div", { class: "row" }, buttons));
  put(body, chart.root);
  chart.root.append(wrong);
  return show("hour");
}
