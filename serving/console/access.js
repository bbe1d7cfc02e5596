// The admin key: asked for in the page where the server needs one.

import { Refusal, unlock } from "./api.js";
import { button, h, tell } from "./dom.js";

export function askForKey() {
  if (document.querySelector("dialog[open]")) return;
  const wrong = h("p", { class: "wrong", id: "key-wrong", role: "alert" });
  const input = h("input", { type: "password", id: "key-input", required: true, autocomplete: "off", "aria-describedby": "key-wrong key-about" });
  const close = () => {
    dialog.close();
    dialog.remove();
  };
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      await unlock(input.value.trim());
      close();
      tell("The key is right. It is forgotten with this tab.");
    } catch (error) {
      wrong.textContent = error.status === 401 ? "That is not the admin key of this server." : error.message;
      input.setAttribute("aria-invalid", "true");
      input.select();
    }
  } },
    h("h2", { id: "key-title" }, "Admin key"),
    h("p", { id: "key-about" }, "What is about users, and whatever changes something, needs the server's LEDSTREAM_ADMIN_KEY. It stays in this tab."),
    h("label", { for: "key-input" }, "Key"), input, wrong,
    h("div", { class: "row end" }, button("Cancel", close), h("button", { class: "main" }, "Use it")));
  const dialog = h("dialog", { "aria-labelledby": "key-title", oncancel: (event) => {
    event.preventDefault();
    close();
  } }, form);
  document.body.append(dialog);
  dialog.showModal();
}

// What went wrong, where it went wrong; with a way on where a key is what is missing.
export function trouble(error, again) {
  if (!(error instanceof Refusal)) throw error;
  if (error.needsKey) {
    return h("div", { class: "empty" }, h("p", { class: "strong" }, "This needs the admin key"), h("p", {}, "It is about users, so the server tells it only to who has the key."),
      h("p", {}, button("Enter the key", askForKey, { class: "main" })));
  }
  return h("div", { class: "note bad", role: "alert" }, h("p", {}, error.sentence()), again ? button("Try again", again) : null);
}
