// What visitors look at, told to a ledstream server; what it recommends, put into slots. Types: ledstream.d.ts.
//
// Nothing is sent or stored before consent(true), and never where the browser asks for privacy (GPC). An event keeps its
// id whatever happens to it: sent twice, it counts once.

const ID = "ledstream_id"; // cookies
const USER = "ledstream_user";
const CONSENT = "ledstream_on"; // in storage, as is
const BOX = "ledstream_queue"; // and more: what was not sent, one key a page so that tabs do not overwrite each other's
const KEPT = 500; // events, the newest
const TOGETHER = 100; // in a post: well within the 64 KiB that a browser lets outlive a page
const SOON_MS = 300;
const LONGEST_MS = 6e4;

export function ledstream({ endpoint, key = "", domain = "" }) {
  const random = (bytes) =>
    [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => (byte + 256).toString(16).slice(1)).join("");
  const page = document;
  const marked = (attribute) => `[data-ledstream-${attribute}]`;
  const box = BOX + random(4);
  let isOn = false;
  let queue = []; // events, and identities, which have no kind
  let flying = [];
  let timer = 0;
  let waits_ms = 0;

  // Storage that a browser forbids is no storage.
  const stored = (work) => {
    try {
      return work(localStorage);
    } catch {}
  };
  const boxes = (storage) =>
    Object.keys(storage)
      .filter((name) => name.startsWith(BOX))
      .flatMap((name) => {
        const kept = storage.getItem(name);
        storage.removeItem(name);
        return JSON.parse(kept);
      });
  const save = () =>
    stored((storage) => (queue.length ? storage.setItem(box, JSON.stringify(queue)) : storage.removeItem(box)));
  const keep = (events) => (queue = events.slice(-KEPT));

  const cookie = (name) => decodeURIComponent((page.cookie.match(`(?:^|; )${name}=([^;]*)`) || ["", ""])[1]);
  const setCookie = (name, value) => {
    page.cookie =
      `${name}=${encodeURIComponent(value)};path=/;samesite=lax;max-age=${value ? 31536000 : 0}` +
      (domain && ";domain=" + domain) +
      (location.protocol == "https:" ? ";secure" : "");
  };
  const reset = () => {
    setCookie(ID, "");
    setCookie(USER, "");
  };
  const who = () => {
    if (!cookie(USER) && !cookie(ID)) setCookie(ID, "anon-" + random(16));
    return cookie(USER) || cookie(ID);
  };

  const url = (path, query = {}) => {
    const given = new URLSearchParams(key ? { ...query, key } : query) + "";
    return `${endpoint}/v1/${path}${given && "?" + given}`;
  };
  const body = (batch) => JSON.stringify(batch[0].kind ? { events: batch, sent_at: Date.now() } : batch[0]);

  const flush = async () => {
    clearTimeout(timer);
    timer = 0;
    if (!isOn || flying.length || !queue.length) return;
    const isEvents = !!queue[0].kind;
    const until = queue.findIndex((one) => !!one.kind != isEvents);
    flying = queue.slice(0, isEvents ? Math.min(until < 0 ? TOGETHER : until, TOGETHER) : 1);
    let failed = flying;
    let told;
    try {
      const answer = await fetch(url(isEvents ? "events" : "identify"), {
        method: "POST",
        body: body(flying),
        keepalive: true,
        credentials: "omit",
      });
      if (answer.status < 500 && answer.status != 429) {
        failed = [];
        told = await answer.json();
        failed = flying.filter((_, place) => told.verdicts[place].status == "failed"); // no verdicts: none failed
      }
    } catch {}
    queue = queue.filter((one) => failed.includes(one) || !flying.includes(one));
    flying = [];
    if (isOn) save();
    waits_ms = failed.length ? Math.min(waits_ms * 2 || 1000, LONGEST_MS) : 0;
    if (queue.length) later(waits_ms * (0.5 + Math.random() / 2));
    return told;
  };
  const later = (ms) => (timer ||= setTimeout(flush, ms));
  const add = (one) => {
    keep([...queue, one]);
    if (!waits_ms) later(SOON_MS);
  };

  // The last moment in which a page is sure to run. What flies may not land, so it is kept: its id tells.
  const leave = () => {
    if (!isOn) return;
    const events = queue.filter((one) => one.kind && !flying.includes(one)).slice(0, TOGETHER);
    if (events.length && navigator.onLine && navigator.sendBeacon(url("events"), body(events)))
      queue = queue.filter((one) => !events.includes(one));
    save();
  };

  const track = (kind, item, { value, context } = {}) =>
    isOn &&
    add({ user_id: who(), item_id: "" + item, kind, time_ms: Date.now(), event_id: random(12), value, context });

  // Declarative: data-ledstream-item, -event, -value; in an answer also -answer, -slot, -place.
  const about = (element, kind) => {
    const { ledstreamItem, ledstreamValue, ledstreamAnswer: answer, ledstreamSlot: slot, ledstreamPlace: place } =
      element.dataset;
    track(kind, ledstreamItem, {
      value: ledstreamValue ? +ledstreamValue : undefined,
      context: answer && { answer, slot, place },
    });
  };
  const all = (attribute, work) => page.querySelectorAll(marked(attribute)).forEach(work);
  const done = new WeakSet();
  const each = (attribute, work) =>
    all(attribute, (element) => {
      if (!done.has(element)) work(element);
      done.add(element);
    });
  const seen = new IntersectionObserver(
    (changes) =>
      changes.forEach(({ isIntersecting, target }) => {
        if (isIntersecting) {
          seen.unobserve(target);
          about(target, "impression");
        }
      }),
    { threshold: 0.5 },
  );
  const scan = () => {
    if (!isOn) return;
    each("event=view", (element) => about(element, "view"));
    each("answer", (element) => seen.observe(element));
    each("recs", fill);
  };

  const fill = async (slot, waits_ms = 1000) => {
    if (!isOn) return;
    const { ledstreamRecs: name, k = 10, exclude = "" } = slot.dataset;
    try {
      const answer = await (await fetch(url("slot", { user: who(), k, exclude }), { credentials: "omit" })).json();
      const template = slot.querySelector("template");
      const told = new CustomEvent("ledstream:recs", { detail: answer, bubbles: true, cancelable: true });
      const [...items] = answer.items; // a refusal has none, and is asked again
      if (!slot.dispatchEvent(told) || !template) return;
      slot.replaceChildren(template);
      items.forEach((item, place) => {
        const escaped = (_, field) =>
          ("" + (item[field] ?? "")).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
        slot.insertAdjacentHTML("beforeend", template.innerHTML.trim().replace(/\{(\w+)\}/g, escaped));
        Object.assign(slot.lastElementChild.dataset, {
          ledstreamItem: item.item_id,
          ledstreamAnswer: answer.answer_id,
          ledstreamSlot: name,
          ledstreamPlace: place,
        });
      });
      scan();
    } catch {
      if (waits_ms < 9000) setTimeout(fill, waits_ms, slot, 2 * waits_ms); // the page keeps what it shows
    }
  };

  const consent = (isGiven) => {
    const was = isOn;
    isOn = !!isGiven && !navigator.globalPrivacyControl;
    if (isOn && !was) {
      stored((storage) => {
        storage.setItem(CONSENT, "1");
        keep(boxes(storage));
      });
      save();
      if (queue.length) later(0);
      scan();
    }
    if (!isOn) {
      queue = [];
      reset();
      stored((storage) => {
        storage.removeItem(CONSENT);
        boxes(storage);
      });
    }
    return isOn;
  };

  addEventListener("pagehide", leave);
  page.addEventListener("visibilitychange", () => page.hidden && leave());
  addEventListener("online", () => {
    waits_ms = 0;
    flush();
  });
  page.addEventListener(
    "click",
    ({ target }) => {
      const element = target.closest(marked("item"));
      const kind = element && (element.dataset.ledstreamEvent || "click");
      if (kind && kind != "view") about(element, kind);
    },
    true,
  );
  const start = () => (isOn ? scan() : stored((storage) => storage.getItem(CONSENT)) && consent(true));
  page.readyState == "loading" ? page.addEventListener("DOMContentLoaded", start) : start();

  return {
    consent,
    track,
    view: (item, more) => track("view", item, more),
    click: (item, more) => track("click", item, more),
    sale: (item, more) => track("sale", item, more),
    identify(user) {
      if (!isOn || cookie(USER) == user) return;
      const anonymous_id = cookie(ID);
      reset();
      setCookie(USER, user);
      if (anonymous_id) add({ anonymous_id, user_id: user });
    },
    reset,
    scan,
    refresh: () => all("recs", (slot) => fill(slot)),
    flush,
  };
}
