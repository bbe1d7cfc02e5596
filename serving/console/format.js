// Figures and times as people read them. What nobody knows is a dash.

export const NONE = "–";
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const known = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  return known(value) ? plain.format(value) : NONE;
}

export function price(value, currency = "") {
  return known(value) ? `${money.format(value)} ${currency || ""}`.trim() : NONE;
}

export function compact(value) {
  return known(value) ? (Math.abs(value) < 10000 ? plain.format(value) : short.format(value)) : NONE;
}

export function rate(value) {
  if (!known(value)) return NONE;
  return value > 0 && value < 10 ? value.toFixed(1) : compact(value);
}

export function ms(seconds) {
  if (!known(seconds)) return NONE;
  const value = 1000 * seconds;
  if (value >= 10000) return `${plain.format(value / 1000)} s`;
  return `${value >= 100 ? plain.format(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; value >= 1000 && at < units.length - 1; at += 1) value /= 1000;
  return `${at && value < 100 ? value.toFixed(1) : plain.format(value)} ${units[at]}`;
}

export function share(value) {
  return known(value) ? `${+(100 * value).toFixed(value < 0.1 ? 1 : 0)} %` : NONE;
}

// Four significant digits, for metrics of any size.
export function figure(value) {
  if (!known(value)) return NONE;
  if (Number.isInteger(value)) return plain.format(value);
  const size = Math.abs(value);
  return size >= 1000 ? plain.format(value) : size && size < 0.001 ? value.toExponential(2) : String(+value.toPrecision(4));
}

export function clock(atMs) {
  return new Date(atMs).toLocaleTimeString("en-GB");
}

export function moment(atMs) {
  if (!known(atMs)) return NONE;
  const at = new Date(atMs);
  const two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function span(seconds) {
  if (!known(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size < 90) return `${Math.round(size)} s`;
  if (size < 5400) return `${Math.round(size / 60)} min`;
  if (size < 129600) return `${Math.round(size / 3600)} h`;
  return `${Math.round(size / 86400)} days`;
}

export function ago(atMs) {
  if (!known(atMs)) return NONE;
  const seconds = (Date.now() - atMs) / 1000;
  return seconds < -5 ? `in ${span(seconds)}` : seconds < 2 ? "now" : `${span(seconds)} ago`;
}

// A release by when it was made, as its version says: 20261122T012731123Z-0a1b2c3d.
export function releaseName(version) {
  const found = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\d*Z-([0-9a-f]{8})$/.exec(version || "");
  return found ? `${found[2]}-${found[3]} ${found[4]}:${found[5]}:${found[6]} · ${found[7].slice(0, 4)}` : version || NONE;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
