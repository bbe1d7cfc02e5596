// How releases were made: curves of those learned in epochs, and figures of all over time.

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
        : empty("No training yet", "ledstream train makes a release of what is archived so far; ledstream up --retrain-every 1h does it each hour.", "Each of them appears here with its figures, and with its curves where it was learned in epochs."));
    } catch (error) {
      put(body, trouble(error, show));
    }
  };
  show();
}

function drawn(trainings, releases, current) {
  const chosen = new Set(trainings.filter(({ epochs }) => epochs.length).slice(0, 2).map(({ version }) => version));
  const curves = h("div", {}), inDetail = h("div", {});
  const draw = () => put(curves, curvesOf(trainings.filter(({ version }) => chosen.has(version)).slice(0, MOST_CURVES)));
  const table = h("section", { class: "panel" }, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Trainings" }, h("table", { class: "wide" },
    h("thead", {}, h("tr", {}, ["Curves", "Release", "Made", "Kind", "Epochs", "Best", "NDCG", "CPU", "Events"].map((name, at) => h("th", { scope: "col", class: at > 3 ? "number" : null }, name)))),
    h("tbody", {}, trainings.map((one) => row(one, current, chosen, draw, inDetail))))));
  draw();
  return [overTime(releases), curves, table, inDetail];
}

function row(one, current, chosen, draw, inDetail) {
  const box = h("input", { type: "checkbox", "aria-label": `Curves of ${releaseName(one.version)}`, disabled: !one.epochs.length, onchange: () => {
    chosen[box.checked ? "add" : "delete"](one.version);
    draw();
  } });
  box.checked = chosen.has(one.version);
  const best = one.epochs.find(({ number }) => number === one.best_epoch);
  const number = (text) => h("td", { class: "number" }, text);
  return h("tr", {}, h("td", {}, box), h("th", { scope: "row" }, h("button", { type: "button", class: "plain mono", title: one.version, onclick: () => detail(one, inDetail) }, releaseName(one.version)), " ", one.version === current ? badge("current", "good") : ""),
    h("td", { title: moment(one.created_ms) }, ago(one.created_ms)), h("td", {}, kind(one)), number(one.epochs.length ? count(one.epochs.at(-1).number) : NONE), number(one.best_epoch === null ? NONE : count(one.best_epoch)),
    number(figure(best?.ndcg ?? one.about.finetuning?.ndcg ?? validation(one))), number(span(one.cpu_seconds ?? one.about.train_s ?? one.about.cpu_seconds)), number(count(one.about.events)));
}

function kind({ epochs, about }) {
  return about.finetuning || epochs.length ? "fine-tuned" : about.model || about.trainer || "closed form";
}

// The mean over the tasks that a closed form was chosen by, where it tells them.
function validation({ about }) {
  const found = Object.values(about.validation || {}).map((one) => one?.ndcg).filter((one) => typeof one === "number");
  return found.length ? found.reduce((sum, one) => sum + one, 0) / found.length : null;
}

function curvesOf(trainings) {
  if (!trainings.length) return [];
  const names = trainings.map(({ version }) => releaseName(version));
  const numbers = [...new Set(trainings.flatMap(({ epochs }) => epochs.map(({ number }) => number)))].sort((one, other) => one - other);
  const column = (one, name) => numbers.map((number) => one.epochs.find((epoch) => epoch.number === number)?.[name] ?? null);
  const chart = (title, name) => {
    const made = new Chart({ title, series: names, x: (number) => `epoch ${number}`, y: figure, kind: "dots", wholeX: true, from: null, whenEmpty: "It was not looked at." });
    made.set(numbers, trainings.map((one) => column(one, name)));
    return made.root;
  };
  return h("div", { class: "two" }, chart("Loss", "loss"), chart("NDCG on validation users", "ndcg"));
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
  put(into, panel(`How ${releaseName(one.version)} was made`, h("p", { class: "quiet" }, `${one.version} · ${plural(one.epochs.length, "epoch")}${one.peak_mb ? ` · at most ${count(one.peak_mb)} MB` : ""}${Object.entries(one.versions).map(([name, version]) => ` · ${name} ${version}`).join("")}`), pick(one.about)));
  into.scrollIntoView({ block: "nearest" });
}
