// Releases: what there is, how they compare, which is on trial, and the way back.

import { ask, inPath } from "./api.js";
import { trouble } from "./access.js";
import { comparison } from "./compare.js";
import { badge, button, confirmed, empty, h, panel, put, tell, working } from "./dom.js";
import { NONE, ago, count, figure, moment, releaseName, share } from "./format.js";
import { trial } from "./trial.js";

const LOADED_WITHIN_MS = 10000, AGAIN_MS = 3000;

export function releases(main) {
  const view = new Releases(main);
  view.show();
  const turn = setInterval(() => document.visibilityState === "visible" && view.look(), AGAIN_MS);
  return () => clearInterval(turn);
}

class Releases {
  constructor(main) {
    this.chosen = null; // versions compared
    this.opened = new Set(); // versions whose gate's report is shown
    this.wrong = h("div", {});
    this.trial = h("div", {});
    this.table = h("div", {}, h("p", { class: "quiet" }, "Looking…"));
    this.compared = h("div", {});
    this.back = h("div", { class: "row" });
    put(main, h("div", { class: "head" }, h("h1", {}, "Releases"), this.back), this.wrong, this.trial, this.table, this.compared);
  }

  async show() {
    try {
      await this.#read();
    } catch (error) {
      put(this.table, trouble(error, () => this.show()));
    }
  }

  // Quietly: what cannot be read now is told by the frame, and what is shown stays.
  async look() {
    const before = this.told;
    try {
      const [all, now] = await Promise.all([ask("/v1/releases"), ask("/v1/canary")]);
      this.#drawTrial(now);
      if (before !== JSON.stringify([all, now.canary?.version, now.rollback_to])) this.#draw(all, now);
    } catch {
      // the next look will tell
    }
  }

  async #read() {
    const [all, now] = await Promise.all([ask("/v1/releases"), ask("/v1/canary")]);
    this.#drawTrial(now);
    this.#draw(all, now);
  }

  #drawTrial(now) {
    const held = this.trial.contains(document.activeElement);
    const told = JSON.stringify(now);
    if (held && this.toldTrial !== undefined && now.canary) {
      if (told === this.toldTrial) return;
    }
    this.toldTrial = told;
    const focused = held && document.activeElement.textContent;
    put(this.trial, now.canary ? trial(now, (action) => this.#end(action, now.canary.version), (error) => this.#fails(error)) : []);
    if (focused) [...this.trial.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
  }

  #draw(all, now) {
    this.told = JSON.stringify([all, now.canary?.version, now.rollback_to]);
    this.all = all;
    this.now = now;
    const newest = [...all.releases].reverse();
    const has = (version) => newest.some((one) => one.version === version);
    this.chosen = new Set([...(this.chosen ?? [now.current, now.canary?.version ?? now.rollback_to ?? newest.find((one) => !one.current)?.version])].filter(has));
    const to = now.rollback_to;
    put(this.back, to && has(to) ? working(`Roll back to ${releaseName(to)}`, () => this.#rollBack(to, Boolean(now.canary)), (error) => this.#fails(error), { class: "danger", id: "rollback" })
      : h("p", { class: "quiet" }, all.releases.length ? "Nothing to roll back to" : ""));
    put(this.table, newest.length ? this.#rows(newest) : empty("No release yet", "Until the first one everybody gets the popular items.", "Train one: ledstream train, or ledstream up --retrain-every 1h."));
    this.#compare();
  }

  #rows(newest) {
    const columns = ["Compare", "Release", "State", "Made", "Items", "Dim", "Index recall", "Gate", ""];
    return h("section", { class: "panel" }, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Releases" }, h("table", { class: "wide" },
      h("thead", {}, h("tr", {}, columns.map((name, at) => h("th", { scope: "col", class: at > 3 && at < 7 ? "number" : null }, name || h("span", { class: "unseen" }, "Actions"))))),
      h("tbody", {}, newest.map((one) => this.#row(one))))));
  }

  #row(one) {
    const { version } = one;
    const box = h("input", { type: "checkbox", "aria-label": `Compare ${releaseName(version)}`, onchange: () => {
      this.chosen[box.checked ? "add" : "delete"](version);
      this.#compare();
    } });
    box.checked = this.chosen.has(version);
    const row = h("tr", { "data-version": version }, h("td", {}, box), h("th", { scope: "row" }, h("span", { class: "mono", title: version }, releaseName(version))), h("td", {}, this.#state(one)),
      h("td", { title: moment(one.created_ms) }, ago(one.created_ms)), ...[one.items, one.dim].map((value) => h("td", { class: "number" }, count(value))),
      h("td", { class: "number" }, figure(one.index?.recall20)), h("td", {}, this.#gate(one)), h("td", { class: "actions" }, this.#actions(one)));
    return [row, one.problem ? h("tr", {}, h("td", { colspan: 9, class: "quiet" }, one.problem)) : null, this.opened.has(version) ? report(one) : null];
  }

  #state(one) {
    const { current, canary } = this.now;
    if (one.version === current) return [badge("current", "good"), one.current ? "" : [" ", badge("not loaded yet", "warn")]];
    if (one.version === canary?.version) return badge(`canary ${share(canary.share)}`, "warn");
    return one.current ? badge("still loaded", "warn") : NONE;
  }

  #gate({ version, gate }) {
    if (!gate) return h("span", { class: "quiet" }, "not judged");
    const refused = gate.checks.filter(({ outcome }) => outcome === "refused");
    const isOpen = this.opened.has(version);
    return button([badge(refused.length ? `refused: ${refused.map(({ name }) => name).join(", ")}` : "passed", refused.length ? "bad" : "good"), isOpen ? " ▴" : " ▾"], () => {
      this.opened[isOpen ? "delete" : "add"](version);
      this.#draw(this.all, this.now);
      document.querySelector(`[data-version="${CSS.escape(version)}"] button.plain`)?.focus();
    }, { class: "plain", "aria-expanded": String(isOpen), "aria-label": `${refused.length ? `refused: ${refused.map(({ name }) => name).join(", ")}` : "passed"} ${isOpen ? "▴" : "▾"} by the gate, report of ${releaseName(version)}` });
  }

  #actions(one) {
    const { version, problem, gate } = one;
    const { current, canary } = this.now;
    if (version === current || problem) return [];
    const isRefused = gate?.checks.some(({ outcome }) => outcome === "refused");
    const made = [working("Activate", () => this.#activate(version, isRefused), (error) => this.#fails(error), { class: "small", "aria-label": `Activate ${releaseName(version)}` })];
    if (version !== canary?.version && !isRefused && current) made.push(working("Try…", () => this.#try(version), (error) => this.#fails(error), { class: "small", "aria-label": `Try ${releaseName(version)} on a share of the users` }));
    return made;
  }

  #compare() {
    const chosen = this.all.releases.filter(({ version }) => this.chosen.has(version)).reverse();
    put(this.compared, chosen.length > 1 ? comparison(chosen, this.now) : this.all.releases.length > 1 ? panel("Compare", h("p", { class: "quiet" }, "Tick two releases or more to see their figures side by side.")) : []);
  }

  async #activate(version, isRefused) {
    const text = [`Everybody is answered from ${version} within a second or two; ${this.now.canary ? "the trial ends, and " : ""}the release before stays the way back.`];
    if (isRefused) text.unshift("The gate refused this release.");
    if (!(await confirmed(`Activate ${releaseName(version)}?`, text, isRefused ? "Activate all the same" : "Activate", isRefused ? "danger" : "main"))) return;
    await ask(`/v1/releases/${inPath(version)}/activate${isRefused ? "?force=true" : ""}`, { method: "POST" });
    await this.#until(version);
  }

  async #rollBack(to, hasCanary) {
    const text = hasCanary ? "The release on trial is withdrawn, and everybody is answered from the current one." : "Everybody is answered from the release before, within a second or two.";
    if (!(await confirmed(`Roll back to ${releaseName(to)}?`, text, "Roll back"))) return;
    await ask("/v1/releases/rollback", { method: "POST", body: { version: to } });
    await this.#until(to);
  }

  async #end(action, version) {
    const promoted = action === "promote";
    if (!(await confirmed(promoted ? "Promote the canary?" : "Withdraw the canary?", promoted ? `${version} becomes current for everybody, before its trial is over.` : `The trial of ${version} ends, and everybody is answered from the current release.`,
      promoted ? "Promote" : "Withdraw", promoted ? "main" : "danger"))) return;
    await ask(`/v1/canary/${action}`, { method: "POST", body: { version } });
    await this.#until(promoted ? version : this.now.current);
  }

  async #try(version) {
    const field = (label, id, value, max) => [h("label", { for: id }, label), h("input", { id, type: "number", min: 0.1, max, step: "any", required: true, value })];
    const asked = await new Promise((resolve) => {
      const close = (answer) => {
        dialog.remove();
        resolve(answer);
      };
      const form = h("form", { onsubmit: (event) => {
        event.preventDefault();
        close({ share: Number(form.querySelector("#try-share").value) / 100, for_s: 60 * Number(form.querySelector("#try-min").value) });
      } }, h("h2", { id: "try-title" }, `Try ${releaseName(version)}`), h("p", {}, "It answers a share of the users beside the current release, and is judged by what they do: promoted or withdrawn by itself where a judge runs."),
      field("Share of the users, %", "try-share", 5, 100), field("Minutes", "try-min", 60, 43200), h("div", { class: "row end" }, button("Cancel", () => close(null)), h("button", { class: "main" }, "Begin")));
      const dialog = h("dialog", { "aria-labelledby": "try-title", oncancel: () => close(null) }, form);
      document.body.append(dialog);
      dialog.showModal();
    });
    if (!asked) return;
    await ask("/v1/canary", { method: "POST", body: { version, ...asked } });
    tell(`${releaseName(version)} is on trial.`);
    await this.show();
  }

  // Announced is not loaded: servers take it by themselves.
  async #until(version) {
    put(this.wrong);
    for (const end = Date.now() + LOADED_WITHIN_MS; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 250))) {
      if ((await ask("/readyz")).release === version) {
        tell(`${releaseName(version)} is current.`);
        return this.show();
      }
    }
    tell(`${releaseName(version)} is announced, and this server has not loaded it yet.`, true);
    return this.show();
  }

  #fails(error) {
    put(this.wrong, trouble(error));
    this.show();
  }
}

function report({ version, gate }) {
  const tones = { passed: "good", refused: "bad", "not judged": "" };
  return h("tr", { class: "opened" }, h("td", { colspan: 9 }, h("p", { class: "quiet" }, `Examined ${moment(gate.examined_ms)} in ${count(gate.took_ms)} ms, ${gate.champion ? `against ${releaseName(gate.champion)}` : "with nothing to compare it with"}.`),
    h("table", {}, h("caption", { class: "unseen" }, `Gate report of ${version}`), h("thead", {}, h("tr", {}, ["Check", "Outcome", "Figure", "Bound", "In words"].map((name, at) => h("th", { scope: "col", class: at === 2 || at === 3 ? "number" : null }, name)))),
      h("tbody", {}, gate.checks.map((check) => h("tr", {}, h("th", { scope: "row" }, check.name), h("td", {}, badge(check.outcome, tones[check.outcome])), h("td", { class: "number" }, figure(check.figure)),
        h("td", { class: "number" }, figure(check.bound)), h("td", { class: "says" }, check.says)))))));
}
