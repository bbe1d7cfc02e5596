// Elements made from plain values. Text is always text: nothing from a server is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Told to whoever listens to the page, and shown for a while in a corner.
let hiding;
export function tell(sentence, isBad = false) {
  const told = document.getElementById("told");
  told.textContent = sentence;
  told.className = isBad ? "shown bad" : "shown";
  clearTimeout(hiding);
  hiding = setTimeout(() => (told.className = ""), 6000);
}

export function button(label, act, more = {}) {
  return h("button", { type: "button", ...more, onclick: act }, label);
}

// A button whose work takes a while: it cannot be pressed twice, and what fails is told where `failed` puts it.
export function working(label, act, failed, more = {}) {
  const made = button(label, async () => {
    made.disabled = true;
    try {
      await act();
    } catch (error) {
      failed(error);
    } finally {
      made.disabled = false;
    }
  }, more);
  return made;
}

export function panel(title, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), ...content);
}

export function empty(title, ...sentences) {
  return h("div", { class: "empty" }, h("p", { class: "strong" }, title), ...sentences.map((one) => h("p", {}, one)));
}

export function badge(text, tone = "") {
  return h("span", { class: `badge ${tone}` }, text);
}

// Label and input in a form that asks when it is submitted, and never leaves the page.
export function asking(label, value, act, more = {}) {
  const input = h("input", { type: "search", id: `ask-${label.replace(/\W+/g, "-")}`, value, autocomplete: "off",
    autocapitalize: "none", spellcheck: "false", ...more });
  return h("form", { class: "ask", role: "search", onsubmit: (event) => {
    event.preventDefault();
    act(input.value.trim());
  } }, h("label", { for: input.id }, label), h("div", { class: "row" }, input, h("button", { class: "main" }, "Look up")));
}

// A question that must be answered; resolves to whether it was answered with yes.
export function confirmed(title, text, verb, tone = "danger") {
  return new Promise((resolve) => {
    const close = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    const dialog = h("dialog", { "aria-labelledby": "confirm-title", oncancel: (event) => {
      event.preventDefault();
      close(false);
    } },
      h("h2", { id: "confirm-title" }, title),
      ...[text].flat().map((one) => h("p", {}, one)),
      h("div", { class: "row end" }, button("Cancel", () => close(false)), button(verb, () => close(true), { class: tone })),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Tabs as the ARIA practices have them: arrows move, one is in the tab order, each has its panel.
export function tabs(label, parts) {
  const tablist = h("div", { class: "tabs", role: "tablist", "aria-label": label });
  const panels = parts.map(({ id, content }) => h("div", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, tabindex: 0 }, content));
  const choose = (place, focus) => {
    buttons.forEach((one, at) => {
      one.setAttribute("aria-selected", String(at === place));
      one.tabIndex = at === place ? 0 : -1;
      panels[at].hidden = at !== place;
    });
    if (focus) buttons[place].focus();
  };
  const buttons = parts.map(({ id, name }, place) => h("button", { type: "button", role: "tab", id: `tab-${id}`,
    "aria-controls": `panel-${id}`, onclick: () => choose(place), onkeydown: (event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: parts.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose((to + parts.length) % parts.length, true);
    } }, name));
  tablist.append(...buttons);
  choose(0);
  return h("div", {}, tablist, panels);
}
