// The catalogue in two dimensions: near is alike, as far as two dimensions can show it. Drawn on a canvas; what is in
// it is in lists and links as well.

import { ask } from "./api.js";
import { trouble } from "./access.js";
import { button, h, put } from "./dom.js";
import { plural, releaseName } from "./format.js";

const CATEGORIES = 6, HEIGHT = 420;

export class CatalogueMap {
  // choose: called with the id of an item that is clicked.
  constructor(choose) {
    this.choose = choose;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.canvas = h("canvas", { role: "img", "aria-label": "Map of the catalogue", onwheel: (event) => this.#wheel(event),
      onpointerdown: (event) => (this.dragged = { x: event.clientX, y: event.clientY, moved: 0 }),
      onpointermove: (event) => this.#move(event), onpointerup: (event) => this.#up(event), onpointerleave: () => this.#leave() });
    this.tip = h("div", { class: "tip", hidden: true });
    this.legend = h("ul", { class: "legend" });
    this.noted = h("p", { class: "quiet" });
    this.body = h("div", { class: "map", style: { height: `${HEIGHT}px` } }, this.canvas, this.tip);
    this.tools = h("div", { class: "row" }, button("+", () => this.#zoom(1.5), { class: "small", "aria-label": "Zoom in" }),
      button("−", () => this.#zoom(1 / 1.5), { class: "small", "aria-label": "Zoom out" }), button("All", () => this.#zoom(0), { class: "small", "aria-label": "All of the map" }));
    this.root = h("section", { class: "panel" }, h("div", { class: "head" }, h("h2", {}, "Map of the catalogue"), this.tools), this.legend, this.body, this.noted);
    new ResizeObserver(() => this.#draw()).observe(this.body);
    const again = () => (this.root.isConnected ? this.#draw() : stop());
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const stop = () => {
      document.removeEventListener("theme", again);
      dark.removeEventListener("change", again);
    };
    document.addEventListener("theme", again);
    dark.addEventListener("change", again);
  }

  // id: the item looked at; near: ids of those most like it.
  async show(id, near = []) {
    try {
      const { items, release } = await ask("/v1/catalogue/map");
      if (!items.length) return this.#none("There is nothing to show before the first release: train one.");
      this.#take(items, id, near);
      const missing = id && !this.points.some((point) => point.item_id === id) ? " The item is none of them." : "";
      this.noted.textContent = `${plural(items.length, "item")}, the most popular of release ${releaseName(release)}; near is alike. Larger is more popular.${missing}`;
      this.canvas.setAttribute("aria-label", `Map of ${plural(items.length, "item")}${id ? `, with ${id} and what is most like it marked; the list names them` : "; search above finds each of them"}`);
      return this.#draw();
    } catch (error) {
      return put(this.body, trouble(error));
    }
  }

  #none(sentence) {
    this.tools.hidden = true;
    this.body.style.setProperty("height", "auto");
    put(this.body, h("p", { class: "quiet" }, sentence));
  }

  #take(items, id, near) {
    const counts = new Map();
    for (const { category } of items) if (category) counts.set(category, (counts.get(category) || 0) + 1);
    const most = [...counts].sort((one, other) => other[1] - one[1]).slice(0, CATEGORIES).map(([category]) => category);
    const xs = items.map(({ x }) => x), ys = items.map(({ y }) => y);
    const middle = [(Math.min(...xs) + Math.max(...xs)) / 2, (Math.min(...ys) + Math.max(...ys)) / 2];
    const half = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)) / 2 || 1;
    const popular = Math.max(1e-9, ...items.map(({ popularity }) => popularity || 0));
    const marks = new Set(near);
    this.points = items.map((item) => ({ ...item, ux: (item.x - middle[0]) / half, uy: (item.y - middle[1]) / half, colour: most.indexOf(item.category),
      size: 2 + 5 * Math.sqrt((item.popularity || 0) / popular), mark: item.item_id === id ? 2 : marks.has(item.item_id) ? 1 : 0 })).sort((one, other) => one.mark - other.mark);
    const here = this.points.at(-1);
    if (here?.mark === 2) this.view = { x: here.ux, y: here.uy, zoom: 1.6 };
    put(this.legend, most.map((category, place) => h("li", {}, h("i", { class: `key s${place}` }), category)), counts.size > most.length ? h("li", {}, h("i", { class: "key rest" }), "other") : [],
      id ? h("li", {}, h("i", { class: "key ring" }), "this item and its neighbours") : []);
  }

  #scale() {
    return (this.view.zoom * Math.min(this.body.clientWidth, HEIGHT)) / 2.15;
  }

  #place({ ux, uy }) {
    const scale = this.#scale();
    return [this.body.clientWidth / 2 + (ux - this.view.x) * scale, HEIGHT / 2 - (uy - this.view.y) * scale];
  }

  #draw() {
    const width = this.body.clientWidth;
    if (!this.points || !width) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = HEIGHT * ratio;
    const style = getComputedStyle(this.root);
    const probe = h("i", { class: "unseen" });
    this.root.append(probe);
    const colour = (name) => {
      probe.style.setProperty("color", `var(--${name})`);
      return getComputedStyle(probe).color;
    };
    const colours = [0, 1, 2, 3, 4, 5].map((place) => colour(`s${place}`)), [rest, ink] = [colour("rest"), colour("ink")];
    probe.remove();
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = `12px ${style.fontFamily}`;
    const hasMarks = this.points.at(-1).mark > 0;
    for (const point of this.points) {
      const [x, y] = this.#place(point);
      if (x < -20 || y < -20 || x > width + 20 || y > HEIGHT + 20) continue;
      pen.globalAlpha = hasMarks && !point.mark ? 0.35 : 0.85;
      pen.fillStyle = colours[point.colour] || rest;
      pen.beginPath();
      pen.arc(x, y, point.mark ? Math.max(5, point.size) : point.size, 0, 7);
      pen.fill();
      if (!point.mark) continue;
      pen.globalAlpha = 1;
      pen.strokeStyle = ink;
      pen.lineWidth = point.mark === 2 ? 2.5 : 1.2;
      pen.stroke();
    }
    this.#label(pen, ink, width);
  }

  // The item looked at has its name beside it.
  #label(pen, ink, width) {
    const here = this.points.at(-1);
    if (here.mark !== 2) return;
    const [x, y] = this.#place(here);
    pen.globalAlpha = 1;
    pen.fillStyle = ink;
    pen.textAlign = x > width * 0.7 ? "right" : "left";
    pen.fillText(here.title || here.item_id, x + (x > width * 0.7 ? -12 : 12), y + 4);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null, nearest = 14;
    for (const point of this.points || []) {
      const [px, py] = this.#place(point);
      const distance = Math.hypot(px - x, py - y);
      if (distance <= nearest) [best, nearest] = [point, distance];
    }
    return best;
  }

  #move(event) {
    if (this.dragged && event.buttons) {
      const scale = this.#scale();
      this.view.x -= (event.clientX - this.dragged.x) / scale;
      this.view.y += (event.clientY - this.dragged.y) / scale;
      this.dragged = { x: event.clientX, y: event.clientY, moved: this.dragged.moved + 1 };
      this.#draw();
      return;
    }
    const point = this.#at(event);
    this.tip.hidden = !point;
    this.canvas.style.setProperty("cursor", point ? "pointer" : "grab");
    if (!point) return;
    const [x, y] = this.#place(point);
    put(this.tip, h("p", {}, h("b", {}, point.title || point.item_id)), h("p", {}, [point.title ? point.item_id : null, point.category].filter(Boolean).join(" · ")));
    this.tip.style.setProperty("left", `${Math.min(x + 12, this.body.clientWidth - this.tip.offsetWidth)}px`);
    this.tip.style.setProperty("top", `${Math.min(y + 12, HEIGHT - 50)}px`);
  }

  #up(event) {
    const wasDragged = this.dragged?.moved > 3;
    this.dragged = null;
    const point = !wasDragged && this.#at(event);
    if (point) this.choose(point.item_id);
  }

  #leave() {
    this.dragged = null;
    this.tip.hidden = true;
  }

  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    this.#zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  }

  #zoom(by) {
    this.view = by ? { ...this.view, zoom: Math.min(40, Math.max(0.8, this.view.zoom * by)) } : { x: 0, y: 0, zoom: 1 };
    this.#draw();
  }
}
