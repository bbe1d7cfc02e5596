// The shop's own script: consent, signing in, and what is recommended, drawn anew after each event. Events themselves
// are the tracker's, from attributes in the page.
"use strict";

{
  const LOOKS = 20; // how often an answer is asked for that knows of an event
  const LOOK_AGAIN_MS = 120;
  const CUSTOMER = "customer-"; // so that nobody signs in as a simulated shopper, whose events the demo counts
  const OFF = "Recommendations are off. Nothing about your visit is sent or kept.";
  const DID = { view: "viewed", click: "liked", sale: "bought" };

  const find = (selector) => document.querySelector(selector);
  const server = document.body.dataset.server;
  const list = find("#recommended");
  const euros = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });
  const tracker = window.ledstream; // absent where the recommender does not answer
  let shown = null; // item ids, once there were any
  let newest = {}; // answer
  let waiting = null; // the event that answers do not know of yet
  let asksWhy = false;

  const cookie = (name) => decodeURIComponent((document.cookie.match(`(?:^|; )${name}=([^;]*)`) || ["", ""])[1]);
  const user = () => cookie("ledstream_user");
  const who = () => user() || cookie("ledstream_id");
  const wantsPrivacy = () => !!navigator.globalPrivacyControl;
  const kept = (work) => {
    try {
      return work();
    } catch {} // where the browser forbids storage
  };
  const isOn = () => !!tracker && !wantsPrivacy() && kept(() => localStorage.getItem("ledstream_on")) === "1";

  const made = (tag, about = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), about);
    element.append(...children);
    return element;
  };

  // What is recommended

  function card(item, place, answer) {
    const image = made("img", { src: item.image || "", alt: "", width: 72, height: 72 });
    const title = made("span", { className: "title" }, item.title || item.item_id);
    const price = made("span", { className: "price" }, item.price == null ? "" : euros.format(item.price));
    const link = made("a", { href: item.url || "#" }, image, title, price);
    const like = find("template#like").content.cloneNode(true).firstElementChild;
    like.setAttribute("aria-label", `Like ${item.title || item.item_id}`);
    const element = made("li", { className: "row" }, link, like);
    element.dataset.ledstreamItem = item.item_id;
    return named(element, place, answer);
  }

  function named(element, place, { answer_id }) {
    Object.assign(element.dataset, { ledstreamAnswer: answer_id, ledstreamSlot: "for you", ledstreamPlace: place });
    return element;
  }

  function draw(answer) {
    const rows = new Map([...list.children].map((row) => [row.dataset.ledstreamItem, row]));
    const before = new Map([...rows].map(([id, row]) => [id, row.getBoundingClientRect()]));
    const was = shown;
    shown = answer.items.map((item) => item.item_id);
    list.replaceChildren(
      ...answer.items.map((item, place) => {
        const row = rows.get(item.item_id);
        const drawn = row ? named(row, place, answer) : card(item, place, answer);
        if (was) drawn.classList.toggle("new", !was.includes(item.item_id));
        return drawn;
      }),
    );
    if (was) move(before);
    tracker.scan();
    if (asksWhy) explain();
  }

  function move(before) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const row of list.children) {
      const from = before.get(row.dataset.ledstreamItem);
      const to = row.getBoundingClientRect();
      if (from && (from.top !== to.top || from.left !== to.left)) {
        const offset = `translate(${from.left - to.left}px, ${from.top - to.top}px)`;
        row.animate([{ transform: offset }, { transform: "none" }], { duration: 350, easing: "ease-out" });
      } else if (!from) {
        row.animate([{ opacity: 0, transform: "scale(.9)" }, { opacity: 1, transform: "none" }], 350);
      }
    }
  }

  document.addEventListener("ledstream:recs", (told) => {
    told.preventDefault();
    const answer = told.detail;
    if (!Array.isArray(answer.items)) return;
    if (answer.user === newest.user && answer.as_of < newest.as_of) return; // overtaken by one that knows more
    if (!waiting && answer.user !== newest.user)
      say(answer.source === "popular" ? "What everybody likes, until you did something." : "Chosen for you.");
    newest = answer;
    draw(answer);
    show(); // who one is may be new
    if (!waiting) return;
    if (waiting.isIn(answer)) {
      say(`Updated ${Math.round(performance.now() - waiting.since)} ms after ${waiting.what}.`);
      waiting = null;
    } else if (--waiting.looks > 0) {
      setTimeout(tracker.refresh, LOOK_AGAIN_MS);
    } else {
      say("The recommender is busy. The list will follow.");
      waiting = null;
    }
  });

  // Sends what was just done, and asks until an answer knows of it.
  async function follow(what, isIn, at_ms = Date.now() - 50) {
    const knows = (answer) => answer.as_of >= at_ms; // events are timed by this clock
    waiting = { what, since: performance.now(), looks: LOOKS, isIn: isIn || knows };
    const { error, verdicts } = (await tracker.flush()) || {};
    const verdict = isIn ? null : verdicts?.at(-1); // of the newest, which this is
    const refusal = error || (verdict?.status === "rejected" && verdict);
    if (!refusal) return tracker.refresh();
    waiting = null;
    say(`The recommender did not take ${what}: ${refusal.field}: ${refusal.reason}.`);
  }

  const say = (sentence) => (find("#told").textContent = sentence);

  // Why

  // The shop's own server asks for the reasons: they tell what somebody did, which is not for every page to see.
  async function explain() {
    const { k, exclude } = list.dataset;
    let answer;
    try {
      answer = await (await fetch(`/why?${new URLSearchParams({ k, exclude })}`)).json();
    } catch {
      return say("The shop does not answer: there are no reasons to show now.");
    }
    const { items, titles } = answer;
    const reasons = new Map(items.map((item) => [item.item_id, item]));
    for (const row of list.children) {
      row.querySelector(".why")?.remove();
      const item = reasons.get(row.dataset.ledstreamItem);
      if (asksWhy && item?.reasons) row.append(because(item, titles));
    }
  }

  // Contributions of events by item, the greatest first; what is left, and popularity, so that the sum is the score.
  function because({ score, reasons }, titles) {
    const byItem = new Map();
    for (const { item_id, kind, contribution } of reasons.events) {
      const one = byItem.get(item_id) || { item_id, kinds: new Set(), sum: 0 };
      one.kinds.add(DID[kind] || kind);
      one.sum += contribution;
      byItem.set(item_id, one);
    }
    const all = [...byItem.values()].sort((one, other) => other.sum - one.sum);
    const parts = all.slice(0, 3).map(({ item_id, kinds, sum }) => {
      const title = titles[item_id] || "something else";
      const picture = made("img", { src: `/pictures/${encodeURIComponent(item_id)}.svg`, alt: "", width: 28, height: 28 });
      return made("li", {}, titles[item_id] ? picture : "", `${[...kinds].join(", ")} ${title} `, number(sum));
    });
    const rest = all.slice(3).reduce((sum, one) => sum + one.sum, 0);
    if (all.length > 3) parts.push(made("li", {}, `${all.length - 3} more `, number(rest)));
    if (reasons.bias) parts.push(made("li", {}, "popularity ", number(reasons.bias)));
    parts.push(made("li", { className: "sum" }, "score ", number(score)));
    return made("ul", { className: "why" }, ...parts);
  }

  const number = (value) => made("b", {}, (value < 0 ? "−" : "") + Math.abs(value).toFixed(3));

  // Consent, and who one is

  function consent(answer) {
    if (answer === "no") kept(() => sessionStorage.setItem("shop_asked", "1"));
    else tracker?.consent(answer === "on");
    if (answer === "off") {
      list.replaceChildren();
      shown = null;
      newest = {};
    }
    show();
    find("#for-you-title").focus({ preventScroll: true }); // what was pressed may be gone
    if (answer === "on" && isOn()) begin();
  }

  function show() {
    const on = isOn();
    const asked = kept(() => sessionStorage.getItem("shop_asked"));
    document.body.classList.toggle("on", on);
    find("#consent").hidden = on || !!asked || !tracker;
    find("#ask").hidden = wantsPrivacy();
    find("#asked-already").hidden = !wantsPrivacy();
    find("#consent [data-consent=on]").hidden = wantsPrivacy();
    find("#consent [data-consent=no]").textContent = wantsPrivacy() ? "All right" : "No, thanks";
    find(".turn-on").hidden = on || wantsPrivacy() || !tracker;
    find("#why").hidden = find("#visitor").hidden = !on;
    if (!tracker) say("The recommender does not answer. The shop goes on without it.");
    else if (!on) say(OFF);
    const name = on ? user() : "";
    find("#name").textContent = name.replace(CUSTOMER, "") || "Sign in";
    find("#signed-in-as").textContent = name.replace(CUSTOMER, "");
    find("#sign-in").hidden = !!name;
    find("#sign-out").hidden = !name;
    find("#who").textContent = name || who().slice(0, 13) + "…";
    find("#console").href = `${server}/console#/users/${encodeURIComponent(who())}`;
  }

  function begin() {
    say("Looking for what may please you.");
    newest = {};
    if (find("[data-ledstream-event=view]")) follow("you opened this page", null, performance.timeOrigin);
    else tracker.refresh();
  }

  document.addEventListener("click", ({ target }) => {
    const answer = target.closest("[data-consent]")?.dataset.consent;
    if (answer) return consent(answer);
    const like = target.closest(".like");
    const buy = target.closest(".buy");
    if (like) like.setAttribute("aria-pressed", "true");
    if (buy) find("#thanks").textContent = "Thank you! Nothing was charged, and nothing will be sent.";
    if (isOn() && (like || buy)) follow(like ? "your like" : "your purchase");
  });

  find("#why").addEventListener("click", ({ currentTarget }) => {
    asksWhy = !asksWhy;
    currentTarget.setAttribute("aria-pressed", asksWhy);
    if (asksWhy) explain();
    else list.querySelectorAll(".why").forEach((reasons) => reasons.remove());
  });

  find("#sign-in").addEventListener("submit", (sent) => {
    sent.preventDefault();
    const name = CUSTOMER + find("#user").value.trim();
    if (!isOn()) return say("Turn recommendations on first: without them nobody is known here.");
    tracker.identify(name);
    find(".account").open = false;
    follow(`you became ${name.replace(CUSTOMER, "")}`, (answer) => answer.user === name && answer.as_of != null);
    show();
  });

  find("#sign-out").addEventListener("submit", (sent) => {
    sent.preventDefault();
    tracker.reset();
    find(".account").open = false;
    say("You are a new visitor.");
    tracker.refresh();
    show();
  });

  show();
  if (isOn()) begin();
}
