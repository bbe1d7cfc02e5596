// Live figures asked for every second, and ten minutes of them. Counters become rates, histograms become quantiles.

import { ask } from "./api.js";

const EVERY_MS = 1000, KEPT = 600, QUANTILES_OVER_MS = 10000;

export class History extends EventTarget {
  constructor() {
    super();
    this.samples = [];
    this.latest = null; // the last answer, whole
    this.problem = null; // why there is none at present
    this.answers = []; // the last QUANTILES_OVER_MS of them
  }

  start() {
    const turn = async () => {
      if (document.visibilityState === "visible") await this.look();
      setTimeout(turn, EVERY_MS);
    };
    turn();
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.look());
  }

  async look() {
    try {
      const answer = await ask("/v1/console/live");
      this.problem = null;
      this.#take(answer);
    } catch (error) {
      this.problem = error.message;
    }
    this.dispatchEvent(new Event("looked"));
  }

  column(name) {
    return this.samples.map((sample) => sample[name]);
  }

  #take(answer) {
    const before = this.answers.at(-1);
    if (before && answer.at_ms <= before.at_ms) return; // of another worker, from a moment ago
    if (before && began(before, answer)) this.answers = []; // counters began again: no rate until the next look
    const last = this.answers.at(-1);
    this.answers = [...this.answers.filter((one) => one.at_ms >= answer.at_ms - QUANTILES_OVER_MS), answer];
    const oldest = this.answers[0];
    const perS = (name) => (last ? (1000 * (answer[name] - last[name])) / (answer.at_ms - last.at_ms) : null);
    this.latest = answer;
    this.samples.push({
      at: answer.at_ms,
      events: perS("accepted"),
      answers: perS("answers"),
      rejected: perS("rejected"),
      refused: perS("refused"),
      failed: perS("failed"),
      cpu: perS("cpu_seconds"),
      p50: quantile(0.5, oldest.answer_seconds, answer.answer_seconds),
      p99: quantile(0.99, oldest.answer_seconds, answer.answer_seconds),
      fresh50: quantile(0.5, oldest.freshness_seconds, answer.freshness_seconds),
      fresh99: quantile(0.99, oldest.freshness_seconds, answer.freshness_seconds),
      lag: answer.lag,
      users: answer.users,
      memory: answer.memory_bytes,
    });
    if (this.samples.length > KEPT) this.samples.shift();
  }
}

function began(before, answer) {
  return ["accepted", "rejected", "answers", "refused", "failed"].some((name) => answer[name] < before[name]) || answer.workers !== before.workers;
}

// Of what two readings of a histogram have between them, as far as its buckets tell; null where that is nothing.
export function quantile(share, from, to) {
  if (!from || !to || from.counts.length !== to.counts.length) return null;
  const counts = to.counts.map((count, at) => count - from.counts[at]);
  const wanted = share * counts.at(-1);
  if (!(counts.at(-1) > 0)) return null;
  const at = counts.findIndex((count) => count >= wanted);
  const low = at ? to.at_most[at - 1] : 0;
  const high = to.at_most[at] ?? low;
  const below = at ? counts[at - 1] : 0;
  return counts[at] > below ? low + ((high - low) * (wanted - below)) / (counts[at] - below) : high;
}
