// The frame: which view is shown, who may do what, and how the system is at a glance.

import { access, changed, lock } from "./api.js";
import { askForKey } from "./access.js";
import { badge, h, put, s, tell } from "./dom.js";
import { History } from "./history.js";
import { items } from "./items.js";
import { live } from "./live.js";
import { releases } from "./releases.js";
import { training } from "./training.js";
import { trouble } from "./trouble.js";
import { users } from "./users.js";

const VIEWS = [
  { name: "live", title: "Live", show: live, icon: "M2 12h5l3 7 4-15 3 8h5" },
  { name: "users", title: "Users", show: users, icon: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4 21a8 8 0 0 1 16 0" },
  { name: "items", title: "Items", show: items, icon: "M3 3h7v7H3zM14 3h7v7h-7zM3 14h7v7H3zM14 14h7v7h-7z" },
  { name: "releases", title: "Releases", show: releases, icon: "M12 2 3 7l9 5 9-5zM3 12l9 5 9-5M3 17l9 5 9-5" },
  { name: "trouble", title: "Trouble", show: trouble, icon: "M12 3 2 20h20zM12 10v4M12 17v.5" },
  { name: "training", title: "Training", show: training, icon: "M3 3v18h18M7 8c2 8 6 9 13 9" },
];

const main = document.getElementById("main");
const history = new History();
let leave = () => {};
let shown = "";

function place() {
  const [, name = "live", ...rest] = location.hash.split("/");
  return { name, id: decoded(rest.join("/")) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand, with a % that means itself
  }
}

function show() {
  const { name, id } = place();
  const view = VIEWS.find((one) => one.name === name) || VIEWS[0];
  leave();
  main.className = `view-${view.name}`;
  document.title = `${id ? `${id} · ` : ""}${view.title} · ledstream console`;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === view.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave = view.show(main, history, id) || (() => {});
  if (shown && shown !== view.name) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shown = view.name;
}

function drawViews() {
  put(document.getElementById("views"), VIEWS.map(({ name, title, icon }) => h("li", {},
    h("a", { href: `#/${name}`, "data-view": name }, s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: icon })), h("span", {}, title)))));
}

function drawState() {
  const state = history.latest?.state;
  const [text, tone] = history.problem ? ["no answer", "bad"] : !state ? ["…", ""] : !state.ready ? ["not ready", "bad"] : state.degraded ? ["degraded", "warn"] : ["healthy", "good"];
  const now = document.getElementById("state");
  if (now.textContent !== text) put(now, badge(text, tone));
}

async function drawAccess() {
  const button = document.getElementById("access");
  const now = await access();
  const label = { unlocked: "Forget the key", locked: "Enter the key", closed: "Read only" }[now];
  button.hidden = !label;
  button.textContent = label || "";
  button.title = now === "closed" ? "LEDSTREAM_ADMIN_KEY is not set: nothing can be changed, and users cannot be read" : "";
  button.onclick = () => {
    if (now === "unlocked") {
      lock();
      tell("The key is forgotten.");
    } else if (now === "locked") askForKey();
    else tell(button.title);
  };
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its place in the address is the view's
  main.focus();
});
addEventListener("hashchange", show);
changed.addEventListener("access", () => {
  drawAccess();
  show();
});
history.addEventListener("looked", drawState);
drawViews();
drawAccess();
history.start();
show();

