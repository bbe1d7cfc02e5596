// Charts as inline SVG: lines over time or epochs, bars, and sparklines. Read by pointer, by finger and by arrow keys.

import { h, put, s } from "./dom.js";

const GUTTER = { left: 52, right: 10, top: 8, bottom: 22 };

// Round steps: 1, 2, 2.5 or 5 times a power of ten, about as many as asked for.
export function ticks(low, high, wanted, whole = false) {
  if (!(high > low)) high = low + 1;
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const round = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const step = whole ? Math.max(1, Math.ceil(round)) : round;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(12));
  return found;
}

// Runs of points without a gap: a value nobody knows is a gap, not a zero.
function runs(xs, ys) {
  const found = [[]];
  ys.forEach((y, at) => {
    if (y === null || y === undefined) found.push([]);
    else found.at(-1).push([xs[at], y]);
  });
  return found.filter((run) => run.length);
}

const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

export function sparkline(values, width = 120, height = 28) {
  const known = values.filter((value) => value !== null && value !== undefined);
  const svg = s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (known.length < 2) return svg;
  const high = Math.max(...known), low = Math.min(0, ...known);
  const x = (at) => (at / (values.length - 1)) * width;
  const y = (value) => height - 2 - ((value - low) / (high - low || 1)) * (height - 4);
  for (const run of runs(values.map((_, at) => x(at)), values)) {
    const points = run.map(([at, value]) => [at, y(value)]);
    svg.append(s("path", { class: "area", d: `${path(points)}L${points.at(-1)[0].toFixed(1)} ${height}L${points[0][0].toFixed(1)} ${height}Z` }));
    svg.append(s("path", { class: "line", d: path(points) }));
  }
  return svg;
}

// title: what is shown. series: their names, in the order of their colours. x, y, tick: how a value is written, and one
// at the axis. kind: "line", "dots" (a line through what is known, with dots) or "bar", of one series. from: the lowest
// y, null for that of the data. least: the shortest range of x. wholeX, wholeY: an axis of
// whole numbers.
export class Chart {
  constructor({ title, series, x, y, tick = y, kind = "line", height = 190, from = 0, least = 0, wholeX = false, wholeY = false, whenEmpty = "Nothing to show yet." }) {
    Object.assign(this, { title, series, x, y, tick, kind, height, from, least, wholeX, wholeY, whenEmpty });
    this.xs = [];
    this.columns = series.map(() => []);
    this.at = null;
    this.legend = h("ul", { class: "legend" });
    this.plot = h("div", { class: "plot", tabindex: 0, role: "group", "aria-roledescription": "chart",
      style: { height: `${height}px` }, onkeydown: (event) => this.#key(event), onblur: () => this.#point(null),
      onpointermove: (event) => this.#hover(event), onpointerleave: () => this.#point(null) });
    this.said = h("p", { class: "unseen", "aria-live": "polite" });
    this.root = h("figure", { class: "chart panel" }, h("figcaption", {}, h("h2", {}, title), this.legend), this.plot, this.said);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  // xs: ascending. columns: one for each series, null where nothing is known.
  set(xs, columns) {
    this.xs = xs;
    this.columns = columns;
    if (this.at !== null && this.at >= xs.length) this.at = null;
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const known = this.columns.flat().filter((value) => value !== null && value !== undefined);
    this.#caption(known);
    if (!known.length) {
      put(this.plot, h("p", { class: "quiet" }, this.whenEmpty));
      return;
    }
    const high = Math.max(...known), low = this.from ?? Math.min(...known);
    const marks = ticks(low, high > low ? high : low + (Math.abs(low) || 1), 4, this.wholeY);
    const step = marks.length > 1 ? marks[1] - marks[0] : 1;
    const top = Math.max(high, marks.at(-1) < high ? marks.at(-1) + step : marks.at(-1));
    const bottom = this.from ?? Math.min(low, marks[0] > low ? marks[0] - step : marks[0]);
    const last = this.xs.at(-1), first = Math.min(this.xs[0], last - this.least);
    const inner = width - GUTTER.left - GUTTER.right;
    const slot = this.kind === "bar" ? inner / this.xs.length : 0;
    this.px = (x) => (this.kind === "bar" ? GUTTER.left + slot * (this.xs.indexOf(x) + 0.5) : GUTTER.left + (last > first ? (x - first) / (last - first) : 1) * inner);
    this.py = (y) => GUTTER.top + (1 - (y - bottom) / (top - bottom || 1)) * (this.height - GUTTER.top - GUTTER.bottom);
    const svg = s("svg", { width, height: this.height, "aria-hidden": "true" });
    for (let mark = bottom; mark <= top + step * 1e-9; mark = +(mark + step).toPrecision(12)) {
      svg.append(s("line", { class: "grid", x1: GUTTER.left, x2: width - GUTTER.right, y1: this.py(mark), y2: this.py(mark) }));
      svg.append(s("text", { class: "tick", x: GUTTER.left - 8, y: this.py(mark) + 4, "text-anchor": "end" }, this.tick(mark)));
    }
    this.#below(svg, first, last, Math.max(2, Math.floor(inner / 100)));
    this.columns.forEach((ys, place) => this.#series(svg, ys, place, slot));
    this.over = s("g", {});
    svg.append(this.over);
    put(this.plot, svg, (this.tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" })));
    if (this.at !== null) this.#mark();
  }

  #series(svg, ys, place, slot) {
    if (this.kind === "bar") {
      ys.forEach((y, at) => {
        const height = this.py(0) - this.py(y ?? 0);
        svg.append(s("rect", { class: `fill s${place}`, x: this.px(this.xs[at]) - slot * 0.4, width: Math.max(1, slot * 0.8),
          y: this.py(y ?? 0), height: Math.max(0, height), rx: Math.min(2, slot * 0.2) }));
      });
      return;
    }
    const all = runs(this.xs, ys);
    for (const run of this.kind === "dots" ? [all.flat()].filter((one) => one.length) : all) {
      const points = run.map(([x, y]) => [this.px(x), this.py(y)]);
      if (this.kind === "dots") svg.append(...points.map(([cx, cy]) => s("circle", { class: `dot s${place}`, cx, cy, r: 2.5 })));
      if (points.length === 1) svg.append(s("circle", { class: `dot s${place}`, cx: points[0][0], cy: points[0][1], r: 2.5 }));
      else svg.append(s("path", { class: `line s${place}`, d: path(points) }));
    }
  }

  #below(svg, first, last, wanted) {
    for (const value of this.#marksBelow(first, last, wanted)) {
      const x = this.px(value);
      const anchor = x < (this.kind === "bar" ? 40 : GUTTER.left + 24) ? "start" : x > this.plot.clientWidth - 40 ? "end" : "middle";
      svg.append(s("text", { class: "tick", x, y: this.height - 6, "text-anchor": anchor }, this.x(value)));
    }
  }

  #marksBelow(first, last, wanted) {
    if (first === last) return [first];
    if (this.kind === "bar") {
      const every = Math.ceil(this.xs.length / wanted);
      return this.xs.filter((_, at) => at % every === 0);
    }
    if (this.wholeX) { // of what there is, the first and the last among them
      const most = Math.min(wanted, this.xs.length) - 1;
      return Array.from({ length: most + 1 }, (_, at) => this.xs[Math.round(((this.xs.length - 1) * at) / most)]);
    }
    return Array.from({ length: wanted }, (_, at) => first + ((last - first) * at) / (wanted - 1));
  }

  #caption(known) {
    const latest = this.columns.map((ys) => ys.findLast((one) => one !== null && one !== undefined));
    put(this.legend, this.kind === "bar" ? [] : this.series.map((name, place) => h("li", {}, h("i", { class: `key s${place}` }), name,
      h("b", {}, latest[place] === undefined ? "–" : this.y(latest[place])))));
    const told = this.series.map((name, place) => `${name} ${latest[place] === undefined ? "unknown" : this.y(latest[place])}`);
    this.plot.setAttribute("aria-label", known.length ? `${this.title}: ${told.join(", ")}. Arrow keys read earlier values.` : `${this.title}: ${this.whenEmpty}`);
  }

  #hover(event) {
    if (!this.px || !this.xs.length) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    let best = 0;
    this.xs.forEach((value, at) => {
      if (Math.abs(this.px(value) - x) < Math.abs(this.px(this.xs[best]) - x)) best = at;
    });
    this.#point(best);
  }

  #key(event) {
    const last = this.xs.length - 1;
    const now = this.at ?? last + 1;
    const to = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.#point(null);
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.#point(to);
    this.said.textContent = `${this.x(this.xs[to])}: ${this.series.map((name, place) => `${name} ${this.#value(place, to)}`).join(", ")}`;
  }

  #value(place, at) {
    const value = this.columns[place][at];
    return value === null || value === undefined ? "–" : this.y(value);
  }

  #point(at) {
    this.at = at;
    if (at === null) {
      this.over?.replaceChildren();
      if (this.tip) this.tip.hidden = true;
    } else this.#mark();
  }

  #mark() {
    if (!this.over) return;
    const x = this.px(this.xs[this.at]);
    put(this.over, s("line", { class: "cross", x1: x, x2: x, y1: GUTTER.top, y2: this.height - GUTTER.bottom }),
      this.columns.map((ys, place) => (ys[this.at] === null || ys[this.at] === undefined || this.kind === "bar" ? null
        : s("circle", { class: `dot s${place}`, cx: x, cy: this.py(ys[this.at]), r: 3.5 }))));
    put(this.tip, h("p", {}, this.x(this.xs[this.at])), this.series.map((name, place) =>
      h("p", {}, h("i", { class: `key s${place}` }), name, h("b", {}, this.#value(place, this.at)))));
    this.tip.hidden = false;
    const room = this.plot.clientWidth - this.tip.offsetWidth;
    this.tip.style.setProperty("left", `${Math.max(0, Math.min(room, x > this.plot.clientWidth / 2 ? x - this.tip.offsetWidth - 12 : x + 12))}px`);
  }
}
