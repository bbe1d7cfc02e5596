// A canary's trial: how far it is, what it has shown, and how it may end.

import { badge, h, panel, working } from "./dom.js";
import { clock, count, figure, releaseName, share, span } from "./format.js";

const TONES = { wait: "", promote: "good", withdraw: "bad" };
const GROUPS = { all: "all judged", champion_group: "users of the current release", canary_group: "users of the canary" };

// end: called with "promote" or "withdraw".
export function trial({ canary, recall, errors, refused }, end, failed) {
  const now = Date.now();
  const done = Math.min(1, (now - canary.since_ms) / Math.max(1, canary.until_ms - canary.since_ms));
  return panel([`On trial: ${releaseName(canary.version)} `, badge(share(canary.share), "warn")],
    h("p", {}, h("progress", { value: done, max: 1, "aria-label": "Time of the trial" }), ` ${now < canary.until_ms ? `${span((canary.until_ms - now) / 1000)} to go` : "its time is over"}, until ${clock(canary.until_ms)}`),
    canary.verdict ? h("p", {}, "Verdict so far: ", badge(canary.verdict, TONES[canary.verdict]), ` ${canary.reason}`) : h("p", { class: "quiet" }, "Nobody judges it here."),
    recall ? figures(recall) : null,
    errors ? h("p", {}, `Failures: ${errors}.`) : null,
    Object.entries(refused || {}).map(([process, reason]) => h("p", { class: "note bad" }, `${process} cannot load it: ${reason}`)),
    h("div", { class: "row" }, working("Promote", () => end("promote"), failed, { class: "main" }), working("Withdraw", () => end("withdraw"), failed, { class: "danger" })));
}

function figures(recall) {
  const rows = Object.keys(GROUPS).filter((group) => recall[group]);
  const percent = (value) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)} %`);
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Live recall" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Live recall@20", "Events", "Current", "Canary", "Change", "At least", "At most"].map((name, at) => h("th", { scope: "col", class: at ? "number" : null }, name)))),
    h("tbody", {}, rows.map((group) => h("tr", {}, h("th", { scope: "row" }, GROUPS[group]), h("td", { class: "number" }, count(recall[group].events)),
      [recall[group].champion_recall20, recall[group].canary_recall20].map((value) => h("td", { class: "number" }, recall[group].events ? figure(value) : "–")),
      [recall[group].change, recall[group].change_at_least, recall[group].change_at_most].map((value) => h("td", { class: "number" }, recall[group].events ? percent(value) : "–")))))));
}
