// The system at this moment.

import { Chart, sparkline } from "./charts.js";
import { badge, h, panel, put } from "./dom.js";
import { NONE, ago, bytes, clock, compact, count, ms, rate, releaseName, share } from "./format.js";

const SHOWN_IN_SPARK = 120, SHORTEST_MS = 60000;

export function live(main, history) {
  const tiles = [
    tile("Events", "/s", (now) => rate(now.events), "events", (now) => `${rate(now.rejected)}/s rejected`),
    tile("Answers", "/s", (now) => rate(now.answers), "answers", (now) => `${rate(now.refused)} refused, ${rate(now.failed)} failed /s`),
    tile("Latency p50", "", (now) => ms(now.p50), "p50", () => "in the server, last 10 s"),
    tile("Latency p99", "", (now) => ms(now.p99), "p99", () => "in the server, last 10 s"),
    tile("Lag", "", (now) => compact(now.lag), "lag", () => "events not applied yet"),
    tile("Freshness p99", "", (now) => ms(now.fresh99), "fresh99", (now) => (now.fresh99 === null ? "no probes lately" : `p50 ${ms(now.fresh50)}`)),
    tile("Users alive", "", (now) => compact(now.users), "users", () => "expire when idle"),
    release(),
  ];
  const charts = [
    [chart("Throughput", ["events/s", "answers/s"], rate), ["events", "answers"]],
    [chart("Latency", ["p50", "p99"], ms, "No requests in the last ten seconds."), ["p50", "p99"]],
    [chart("Lag", ["events"], compact), ["lag"]],
    [chart("Freshness", ["p50", "p99"], ms, "No figures: this server sends no probes, or nobody applies them."), ["fresh50", "fresh99"]],
  ];
  const problem = h("p", { class: "note bad", role: "alert", hidden: true });
  const consumers = h("div", {}), server = h("dl", { class: "facts" });
  put(main, h("h1", {}, "Live"), problem,
    h("ul", { class: "tiles" }, tiles.map(({ root }) => root)),
    h("div", { class: "two" }, charts.map(([one]) => one.root)),
    h("div", { class: "two" }, panel("Consumers", consumers), panel("Server", server)));

  const show = () => {
    problem.hidden = !history.problem;
    problem.textContent = history.problem ? `${history.problem} Figures are those of ${history.latest ? clock(history.latest.at_ms) : "no time yet"}; asking again each second.` : "";
    main.classList.toggle("stale", Boolean(history.problem));
    const now = history.samples.at(-1);
    if (!now) return;
    for (const one of tiles) one.show(now, history);
    const xs = history.column("at");
    for (const [one, names] of charts) one.set(xs, names.map((name) => history.column(name)));
    put(consumers, consumersTable(history.latest.state.consumers));
    put(server, facts(history.latest, now));
  };
  history.addEventListener("looked", show);
  show();
  return () => history.removeEventListener("looked", show);
}

function chart(title, series, y, whenEmpty) {
  const tick = y === ms ? (seconds) => `${+(1000 * seconds).toPrecision(3)} ms` : (value) => (value < 10 ? String(+value.toPrecision(2)) : compact(value));
  return new Chart({ title, series, x: clock, y, tick, whenEmpty, least: SHORTEST_MS, wholeY: y === compact });
}

function tile(name, unit, value, column, note) {
  const shown = h("span", { class: "value" }, NONE), spark = h("div", { class: "sparkbox" }), noted = h("p", { class: "quiet" });
  const root = h("li", { class: "tile" }, h("p", { class: "label" }, name), h("p", {}, shown, h("span", { class: "unit" }, unit)), spark, noted);
  return { root, show(now, history) {
    const [number, unitOfIt] = value(now).split(" ");
    put(shown, number);
    if (unitOfIt) put(shown, number, h("span", { class: "unit" }, ` ${unitOfIt}`));
    put(spark, sparkline(history.column(column).slice(-SHOWN_IN_SPARK)));
    noted.textContent = note(now);
  } };
}

function release() {
  const shown = h("a", { class: "value text", href: "#/releases" }, NONE), noted = h("p", { class: "quiet" });
  const root = h("li", { class: "tile" }, h("p", { class: "label" }, "Release"), h("p", {}, shown), noted);
  return { root, show(_, { latest: { state } }) {
    shown.textContent = state.release ? releaseName(state.release) : "none yet";
    put(noted, state.canary ? [badge("canary", "warn"), ` ${share(state.canary_share)} of the users`]
      : state.refused ? [badge("refused", "bad"), ` ${releaseName(state.refused.version)}`]
        : state.release ? "everybody is answered from it" : "popular items are answered; train one");
  } };
}

const TONES = { running: "good", waiting: "warn", stopped: "bad", silent: "bad", absent: "bad", unknown: "warn" };

function consumersTable(consumers) {
  const groups = Object.entries(consumers);
  if (!groups.length) return h("p", { class: "quiet" }, "No consumer tells this server of itself.");
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Consumers" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Group", "State", "Processes", "Lag", "Since"].map((name, at) => h("th", { scope: "col", class: at > 1 && at < 4 ? "number" : null }, name)))),
    h("tbody", {}, groups.map(([group, { state, for: why, since, processes, lag }]) => [
      h("tr", {}, h("th", { scope: "row" }, group), h("td", {}, badge(state, TONES[state])), h("td", { class: "number" }, count(processes)),
        h("td", { class: "number" }, count(lag)), h("td", {}, since ? ago(since) : NONE)),
      why ? h("tr", {}, h("td", { colspan: 5, class: "quiet" }, `${state === "waiting" ? "waits for: " : ""}${why}`)) : null,
    ]))));
}

function facts({ workers, spool_bytes: spool, state }, now) {
  const line = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
  const state_of = (said) => (said === "ok" ? badge("ok", "good") : [badge("away", "bad"), ` ${said}`]);
  return [
    line("Store", state_of(state.store)),
    line("Log", state_of(state.log)),
    line("Worker processes", count(workers)),
    line("CPU", now.cpu === null ? NONE : `${now.cpu.toFixed(2)} cores`),
    line("Memory", bytes(now.memory)),
    line("Kept on disk for the log", spool === null ? "no spool" : bytes(spool)),
    state.announced !== state.release ? line("Announced, not loaded", releaseName(state.announced)) : [],
    state.refused ? line("Refused release", `${releaseName(state.refused.version)}: ${state.refused.reason}`) : [],
    state.canary_refused ? line("Refused canary", `${releaseName(state.canary_refused.version)}: ${state.canary_refused.reason}`) : [],
  ];
}

