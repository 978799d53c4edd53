// The address carries the state: #/PAGE/PART…?name=value. What a person sees can
// be copied out of the address bar, and Back goes where they were.

import { computed, signal } from "@preact/signals";

export interface Route {
  parts: string[];
  params: URLSearchParams;
}

/** parse reads a location's hash; nonsense is the first page. */
export function parse(hash: string): Route {
  const text = hash.replace(/^#\/?/, "");
  const [path = "", query = ""] = text.split("?", 2);
  const parts = path.split("/").filter(Boolean).map(decode);
  return { parts, params: new URLSearchParams(query) };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** href writes a link; empty values are left out. */
export function href(parts: string[], params: Record<string, string | undefined> = {}): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(params)) if (v) q.set(k, v);
  const query = q.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
}

const hash = signal(typeof location === "undefined" ? "" : location.hash);

/** route is where we are. */
export const route = computed(() => parse(hash.value));

/** follow keeps route in step with the address, as it is from now on. It is called once. */
export function follow(): void {
  hash.value = location.hash;
  addEventListener("hashchange", () => (hash.value = location.hash));
}

/** param reads one value of the address. */
export function param(name: string, otherwise = ""): string {
  return route.value.params.get(name) ?? otherwise;
}

/** setParams changes values of the address without a step in the history. */
export function setParams(values: Record<string, string | undefined>): void {
  const { parts, params } = route.value;
  const all: Record<string, string | undefined> = Object.fromEntries(params);
  const next = href(parts, { ...all, ...values });
  if (next === location.hash) return;
  history.replaceState(null, "", next);
  hash.value = next;
}

/** go follows a link from a script. */
export function go(link: string): void {
  location.hash = link;
}
