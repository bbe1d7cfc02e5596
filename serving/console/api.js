// What is asked of the server. The admin key lives in this tab's session, and nowhere else.

const KEPT = "ledstream-console-key";
export const changed = new EventTarget(); // "access": who may do what has changed

// field, value, reason: as every refusal of the server. status: of HTTP; 0 where no answer came.
export class Refusal extends Error {
  constructor(status, error) {
    super(error.reason);
    this.status = status;
    this.field = error.field;
    this.value = error.value;
  }

  get needsKey() {
    return this.status === 401 && this.field === "key";
  }

  sentence() {
    if (this.field === "key" || this.field === "origin" || !this.status || this.status === 503) return this.message;
    return this.value === null ? `${this.field}: ${this.message}` : `${this.field} = ${this.value}: ${this.message}`;
  }
}

export function key() {
  try {
    return sessionStorage.getItem(KEPT) || "";
  } catch {
    return "";
  }
}

export async function ask(path, { method = "GET", body, withKey = key(), signal } = {}) {
  const headers = { accept: "application/json" };
  if (withKey) headers["x-ledstream-key"] = withKey;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { field: "server", value: null, reason: "The server does not answer." });
  }
  const text = await response.text();
  let said = null;
  try {
    said = JSON.parse(text);
  } catch {
    // not ours: a proxy's page
  }
  if (response.ok && said !== null) return said;
  if (said?.error) throw new Refusal(response.status, said.error);
  if (response.status === 503 && said) return said; // /readyz
  throw new Refusal(response.status, { field: "server", value: null, reason: `It answered ${response.status}.` });
}

// "open": no key is needed here. "unlocked": with this key. "locked": it needs one. "closed": nobody can.
export async function access() {
  try {
    await ask("/v1/console/access");
    return key() ? "unlocked" : "open";
  } catch (error) {
    return error.status === 401 ? "locked" : error.status === 403 ? "closed" : "unknown";
  }
}

// Raises Refusal for a key that the server does not take; otherwise it is kept for this tab.
export async function unlock(given) {
  if (!/^[\x21-\x7e]*$/.test(given)) throw new Refusal(401, { field: "key", value: null, reason: "No key has such letters." }); // nor has a header
  await ask("/v1/console/access", { withKey: given });
  try {
    sessionStorage.setItem(KEPT, given);
  } catch {
    throw new Refusal(0, { field: "key", value: null, reason: "This browser keeps nothing for a page; allow it session storage." });
  }
  changed.dispatchEvent(new Event("access"));
}

export function lock() {
  sessionStorage.removeItem(KEPT);
  changed.dispatchEvent(new Event("access"));
}

export const inPath = encodeURIComponent;
