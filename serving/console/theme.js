// Before the first paint, so that nobody who chose a theme sees the other one. "auto": as the system has it.
const THEMES = ["auto", "light", "dark"];
const root = document.documentElement;

function chosen() {
  try {
    const kept = localStorage.getItem("ledstream-console-theme");
    return THEMES.includes(kept) ? kept : "auto";
  } catch {
    return "auto";
  }
}

root.dataset.theme = chosen();

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => {
    const now = root.dataset.theme;
    button.textContent = { auto: "◐", light: "☀", dark: "☾" }[now];
    button.title = `Theme: ${now}`;
    button.setAttribute("aria-label", `Theme: ${now}. Change`);
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
    root.dataset.theme = next;
    try {
      localStorage.setItem("ledstream-console-theme", next);
    } catch {
      // a browser that keeps nothing: chosen until the page is left
    }
    show();
    document.dispatchEvent(new CustomEvent("theme"));
  });
  show();
});
