// How releases were made: curves of those learned step by step, and figures of all over time.

import { ask } from "./api.js";
import { trouble } from "./access.js";
import { Chart } from "./charts.js";
import { badge, empty, h, panel, put } from "./dom.js";
import { NONE, ago, count, figure, moment, plural, releaseName, span } from "./format.js";

const MOST_CURVES = 5;

export function training(main) {
  const body = h("div", {}, h("p", { class: "quiet" }, "Looking…"));
  put(main, h("h1", {}, "Training"), body);
  const show = async () => {
    try {
      const [{ trainings }, { releases, current }] = await Promise.all([ask("/v1/console/trainings"), ask("/v1/releases")]);
      put(body, trainings.length ? drawn(trainings, releases, current)
        : empty("No training yet", "ledstream train makes a release of what is archived so far; ledstream up --retrain-every 1h does it each hour.", "Each of them appears here with its figures, and with its curves where it was learned step by step."));
    } catch (error) {
      put(body, trouble(error, show));
    }
  };
  show();
}

function drawn(trainings, releases, current) {
  const chosen = new Set(trainings.filter(({ curves }) => curves.length).slice(0, 2).map(({ version }) => version));
  const curves = h("div", {}), inDetail = h("div", {});
  const draw = () => put(curves, curvesOf(trainings.filter(({ version }) => chosen.has(version)).slice(0, MOST_CURVES)));
  const table = h("section", { class: "panel" }, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Trainings" }, h("table", { class: "wide" },
    h("thead", {}, h("tr", {}, ["Curves", "Release", "Made", "Kind", "Learned in", "Best", "NDCG", "CPU", "Events"].map((name, at) => h("th", { scope: "col", class: at > 3 ? "number" : null }, name)))),
    h("tbody", {}, trainings.map((one) => row(one, current, chosen, draw, inDetail))))));
  draw();
  return [overTime(releases), curves, table, inDetail];
}

function row(one, current, chosen, draw, inDetail) {
  const box = h("input", { type: "checkbox", "aria-label": `Curves of ${releaseName(one.version)}`, disabled: !one.curves.length, onchange: () => {
    chosen[box.checked ? "add" : "delete"](one.version);
    draw();
  } });
  box.checked = chosen.has(one.version);
  const judged = one.curves.find(({ kept }) => kept !== null);
  const number = (text) => h("td", { class: "number" }, text);
  return h("tr", {}, h("td", {}, box), h("th", { scope: "row" }, h("button", { type: "button", class: "plain mono", title: one.version, onclick: () => detail(one, inDetail) }, releaseName(one.version)), " ", one.version === current ? badge("current", "good") : ""),
    h("td", { title: moment(one.created_ms) }, ago(one.created_ms)), h("td", {}, kind(one)), number(one.curves.length ? lengthOf(one) : NONE), number(judged ? count(judged.kept) : NONE),
    number(figure(one.about.finetuning?.ndcg ?? validation(one))), number(span(one.cpu_seconds ?? one.about.train_s ?? one.about.cpu_seconds)), number(count(one.about.events)));
}

function kind({ curves, about }) {
  const taught = { pass: "sessions", step: "narrow" }[curves[0]?.unit];
  return about.finetuning ? "fine-tuned" : taught || about.model || about.trainer || "closed form";
}

// "12 epochs": as far as the longest of its curves goes.
function lengthOf({ curves }) {
  const unit = curves[0].unit;
  return plural(Math.max(...curves.flatMap(({ numbers }) => numbers)), unit, unit === "pass" ? "passes" : `${unit}s`);
}

// The mean over the tasks that a closed form was chosen by, where it tells them.
function validation({ about }) {
  const found = Object.values(about.validation || {}).map((one) => one?.ndcg).filter((one) => typeof one === "number");
  return found.length ? found.reduce((sum, one) => sum + one, 0) / found.length : null;
}

// A chart for each title and unit, in which every release that has such a curve is a line.
function curvesOf(trainings) {
  const all = trainings.flatMap(({ version, curves }) => curves.map((one) => ({ ...one, name: releaseName(version), of: `${one.title} by ${one.unit}` })));
  const chart = (of) => {
    const lines = all.filter((one) => one.of === of);
    const [{ title, unit }] = lines;
    const numbers = [...new Set(lines.flatMap((one) => one.numbers))].sort((one, other) => one - other);
    const made = new Chart({ title: title[0].toUpperCase() + title.slice(1), series: lines.map(({ name }) => name), x: (number) => `${unit} ${count(number)}`, y: figure, kind: numbers.length > 50 ? "line" : "dots", wholeX: true, from: null });
    made.set(numbers, lines.map((one) => numbers.map((number) => one.values[one.numbers.indexOf(number)] ?? null)));
    return made.root;
  };
  return all.length ? h("div", { class: "two" }, [...new Set(all.map(({ of }) => of))].map(chart)) : [];
}

// What the gate and the index build found of each release, oldest first.
function overTime(releases) {
  const judged = releases.filter(({ created_ms: at }) => at);
  if (judged.length < 2) return [];
  const figureOf = (one, part) => one.gate?.checks.find(({ name }) => name.startsWith(part))?.figure ?? null;
  const made = new Chart({ title: "Releases over time", series: ["index recall", "variety"], x: (at) => moment(at).slice(5, 16), y: figure, kind: "dots" });
  made.set(judged.map(({ created_ms: at }) => at), [judged.map((one) => one.index?.recall20 ?? null), judged.map((one) => figureOf(one, "variety"))]);
  return made.root;
}

function detail(one, into) {
  const pick = (value) => h("pre", { tabindex: 0, "aria-label": "Settings and figures" }, JSON.stringify(value, null, 2));
  put(into, panel(`How ${releaseName(one.version)} was made`, h("p", { class: "quiet" }, `${one.version} · ${one.curves.length ? lengthOf(one) : "no curves"}${one.peak_mb ? ` · at most ${count(one.peak_mb)} MB` : ""}${Object.entries(one.versions).map(([name, version]) => ` · ${name} ${version}`).join("")}`), pick(one.about)));
  into.scrollIntoView({ block: "nearest" });
}
