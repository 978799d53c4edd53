// What a person prefers, kept in this browser. Nothing else is.

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const KEY = "seine.theme";

function stored(): Theme {
  try {
    // eslint-disable-next-line no-restricted-globals -- preferences are what it is for
    const t = localStorage.getItem(KEY);
    return t === "light" || t === "dark" ? t : "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

export const theme = signal<Theme>(typeof window === "undefined" ? "system" : stored());

/** shade is the theme as it is drawn now; charts are drawn again when it changes. */
export const shade = signal<"light" | "dark">("light");

/** applyTheme keeps the page in the preferred theme. It is called once. */
export function applyTheme(): void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const system = signal(dark.matches);
  dark.addEventListener("change", (e) => (system.value = e.matches));
  effect(() => {
    const t = theme.value;
    document.documentElement.dataset.theme = t;
    shade.value = t === "system" ? (system.value ? "dark" : "light") : t;
    try {
      // eslint-disable-next-line no-restricted-globals -- preferences are what it is for
      const store = localStorage;
      if (t === "system") store.removeItem(KEY);
      else store.setItem(KEY, t);
    } catch {
      // It holds for this visit.
    }
  });
}
