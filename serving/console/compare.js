// Figures of releases side by side, each beside its difference from the first.

import { badge, h, panel } from "./dom.js";
import { NONE, figure, moment, releaseName } from "./format.js";

const DEEPEST = 4;

// chosen: at least two releases, the first of which the others are compared with.
export function comparison(chosen, now) {
  const box = h("input", { type: "checkbox", id: "only-different", onchange: () => body.classList.toggle("different", box.checked) });
  const body = h("tbody", {}, sections(chosen).map(([name, rows]) => rows.length ? [
    h("tr", { class: "section" }, h("th", { scope: "rowgroup", colspan: chosen.length + 1 }, name)),
    rows.map(([label, values]) => row(label, values)),
  ] : []));
  return panel("Compare", h("p", { class: "row" }, box, h("label", { for: "only-different" }, "Only what differs")),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Figures side by side" }, h("table", { class: "compare" }, h("thead", {}, h("tr", {}, h("td", {}), chosen.map(({ version }) =>
      h("th", { scope: "col", class: "number" }, releaseName(version), " ", version === now.current ? badge("current", "good") : version === now.canary?.version ? badge("canary", "warn") : "")))), body)));
}

function sections(chosen) {
  const general = [["made", chosen.map(({ created_ms: at }) => moment(at))], ["items", chosen.map(({ items }) => items)], ["dimension", chosen.map(({ dim }) => dim)]];
  return [["Release", general], ["Index", merged(chosen.map(({ index }) => flat(index)))], ["Gate", merged(chosen.map(({ gate }) => checks(gate)))], ["Training", merged(chosen.map(({ about }) => flat(about)))]];
}

function checks(gate) {
  return new Map((gate?.checks || []).map((check) => [check.name, check.figure ?? check.outcome]));
}

// Values by path, as "validation › view › ndcg"; lists and what lies deeper as JSON.
function flat(value, path = [], found = new Map()) {
  for (const [name, one] of Object.entries(value || {})) {
    const at = [...path, name.replaceAll("_", " ")];
    if (one && typeof one === "object" && !Array.isArray(one) && at.length < DEEPEST) flat(one, at, found);
    else found.set(at.join(" › "), /(^|_)ms$/.test(name) && typeof one === "number" && one > 1e12 ? moment(one) : one !== null && typeof one === "object" ? JSON.stringify(one) : one);
  }
  return found;
}

function merged(maps) {
  const names = [...new Set(maps.flatMap((map) => [...map.keys()]))];
  return names.map((name) => [name, maps.map((map) => map.get(name))]);
}

function row(label, values) {
  const [first] = values;
  const differs = values.some((value) => value !== first);
  return h("tr", { class: differs ? "differs" : "same" }, h("th", { scope: "row" }, label), values.map((value, place) => h("td", { class: "number" }, written(value), place ? delta(value, first) : null)));
}

function written(value) {
  if (value === undefined || value === null) return NONE;
  return typeof value === "number" ? figure(value) : String(value);
}

function delta(value, first) {
  if (typeof value !== "number" || typeof first !== "number" || value === first) return null;
  const change = first ? (value - first) / Math.abs(first) : null;
  return h("span", { class: "delta" }, change === null || Math.abs(change) > 10 ? ` ${value > first ? "+" : ""}${figure(value - first)}` : ` ${change > 0 ? "+" : ""}${(100 * change).toFixed(1)} %`);
}
