// What was refused or could not be read, kept with its reason, and sent again.

import { ask } from "./api.js";
import { trouble as told } from "./access.js";
import { badge, button, confirmed, empty, h, put, tabs, tell, working } from "./dom.js";
import { ago, count, moment, plural } from "./format.js";

const LISTED = 100, TONES = { replayed: "good", left: "", refused: "bad", failed: "bad", missing: "bad" };

const BAD_ROWS = {
  path: "/v1/console/badrows",
  list: "rows",
  about: "Events that the border refused. Sent again, each is judged as of when it came, by what is set now; its id makes twice count once.",
  nothing: ["No bad rows", "Every event that came was well formed. What is refused from now on is kept here, with its reason."],
  columns: ["Row", "When", "Site", "Field", "Reason", "Event", "State"],
  cells: (row) => [count(row.at), when(row.time_ms), row.site || "–", h("code", {}, row.field), [row.reason, row.value === null ? "" : h("span", { class: "quiet" }, ` (was ${row.value})`)], whole(row.event), state(row.cut, row.replayed && "replayed")],
  canReplay: (row) => !row.cut,
};
const DEAD_LETTERS = {
  path: "/v1/console/deadletters",
  list: "letters",
  about: "Records of the log that no consumer could read. Sent again, they go to their topic as they were: after the program was mended.",
  nothing: ["No dead letters", "Every record in the log could be read."],
  columns: ["Place", "When", "Cause", "Key", "Value", "State"],
  cells: (letter) => [h("code", {}, letter.at), when(letter.time_ms), letter.cause, h("code", {}, letter.key), whole(letter.value), state(letter.cut, letter.replayed && (letter.replayed === "unknown" ? "replay did not end" : `replayed to ${letter.replayed}`))],
  canReplay: (letter) => !letter.cut,
};

export function trouble(main) {
  const parts = [["badrows", "Bad rows", BAD_ROWS], ["deadletters", "Dead letters", DEAD_LETTERS]].map(([id, name, shape]) => ({ id, name, list: new Kept(id, shape) }));
  put(main, h("h1", {}, "Trouble"), tabs("Kinds of trouble", parts.map(({ id, name, list }) => ({ id, name: [name, " ", list.number], content: list.root }))));
  for (const { list } of parts) list.show();
}

class Kept {
  constructor(id, shape) {
    this.id = id;
    this.shape = shape;
    this.chosen = new Set();
    this.outcomes = new Map();
    this.number = h("span", { class: "badge" });
    this.filter = h("input", { type: "search", id: `filter-${id}`, placeholder: "text in reason or event", oninput: () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.show(), 300);
    } });
    this.actions = h("div", { class: "row" });
    this.body = h("div", {}, h("p", { class: "quiet" }, "Looking…"));
    this.wrong = h("div", {});
    this.root = h("section", { class: "panel" }, h("p", { class: "quiet" }, shape.about), h("div", { class: "row spread" },
      h("div", { class: "row" }, h("label", { for: this.filter.id }, "Filter"), this.filter), this.actions), this.wrong, this.body);
  }

  async show() {
    try {
      const answer = await ask(`${this.shape.path}?limit=${LISTED}&text=${encodeURIComponent(this.filter.value.trim().slice(0, 200))}`);
      this.#draw(answer);
    } catch (error) {
      put(this.actions);
      put(this.body, told(error, () => this.show()));
    }
  }

  #draw(answer) {
    const shown = answer[this.shape.list];
    this.chosen = new Set(shown.map(({ at }) => at).filter((at) => this.chosen.has(at)));
    this.number.textContent = answer.total ? count(answer.waiting) : "0";
    this.number.title = `${plural(answer.total, "entry", "entries")}, ${count(answer.waiting)} of them not sent again`;
    const some = working("", () => this.#replay([...this.chosen]), (error) => this.#fails(error), { class: "main" });
    this.counted = () => {
      some.textContent = `Replay selected (${this.chosen.size})`;
      some.disabled = !this.chosen.size;
    };
    put(this.actions, button("Look again", () => this.show()), some, answer.waiting ? working(`Replay all (${count(answer.waiting)})`, () => this.#replayAll(answer.waiting), (error) => this.#fails(error)) : null);
    this.counted();
    if (!answer.total) return put(this.body, empty(...this.shape.nothing));
    if (!shown.length) return put(this.body, empty("None has this text in it", `There are ${count(answer.total)} in all.`));
    const boxes = [];
    const every = h("input", { type: "checkbox", "aria-label": "Select all that are shown", onchange: () => boxes.forEach((box) => {
      box.checked = every.checked;
      box.dispatchEvent(new Event("change"));
    }) });
    return put(this.body, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "What was kept" }, h("table", { class: "wide kept" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, every), this.shape.columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, shown.map((one) => this.#row(one, boxes))))), h("p", { class: "quiet" }, `The newest ${count(shown.length)} of ${count(answer.total)}.`));
  }

  #row(one, boxes) {
    const box = h("input", { type: "checkbox", "aria-label": `Select ${one.at}`, disabled: !this.shape.canReplay(one), onchange: () => {
      this.chosen[box.checked ? "add" : "delete"](one.at);
      this.counted();
    } });
    box.checked = this.chosen.has(one.at);
    if (!box.disabled) boxes.push(box);
    const outcome = this.outcomes.get(one.at);
    return [h("tr", {}, h("td", {}, box), this.shape.cells(one).map((cell) => h("td", {}, cell))),
      outcome ? h("tr", { class: "outcome" }, h("td", {}), h("td", { colspan: this.shape.columns.length }, badge(outcome.status, TONES[outcome.status]), ` ${outcome.says}`)) : null];
  }

  async #replay(at) {
    put(this.wrong);
    const answer = await ask(`${this.shape.path}/replay`, { method: "POST", body: { at } });
    await this.#tell(answer);
  }

  async #replayAll(waiting) {
    if (!(await confirmed(`Send ${plural(waiting, "entry", "entries")} again?`, "The oldest first, a thousand at a time. What is still bad stays here, with the reason.", "Replay", "main"))) return;
    put(this.wrong);
    await this.#tell(await ask(`${this.shape.path}/replay`, { method: "POST", body: {} }));
  }

  async #tell({ counts, outcomes }) {
    this.outcomes = new Map(outcomes.map((one) => [one.at, one]));
    this.chosen.clear();
    const words = Object.entries(counts).map(([status, number]) => `${count(number)} ${status}`);
    tell(words.length ? `${words.join(", ")}.` : "There was nothing to send.", Boolean(counts.failed));
    await this.show();
  }

  #fails(error) {
    put(this.wrong, told(error));
  }
}

function when(atMs) {
  return h("time", { title: moment(atMs) }, ago(atMs));
}

function whole(text) {
  return text.length > 60 ? h("details", {}, h("summary", {}, h("code", {}, `${text.slice(0, 60)}…`)), h("pre", { tabindex: 0 }, text)) : h("code", {}, text);
}

function state(isCut, replayed) {
  return replayed ? badge(replayed, "good") : isCut ? badge("cut, cannot be sent", "warn") : badge("kept");
}
