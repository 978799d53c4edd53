import type { JSX } from "preact";

// Drawn on a grid of 16, with the colour of the text around. They decorate: a
// word always stands beside or behind them.
const paths = {
  graph: "M3.5 5.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM12.5 9.9a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM4.5 14.5a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM5.4 4.3l5.2 2.7M6.4 11.7l4.4-2.7",
  service: "M2 3h12v4H2zM2 9h12v4H2zM4.5 5h.01M4.5 11h.01",
  workload: "M8 1.8 13.8 5v6L8 14.2 2.2 11V5zM2.4 5.1 8 8.2l5.6-3.1M8 8.2v5.8",
  live: "M1.5 8h3l2-5 3 10 2-5h3",
  config: "M3 2.5h7l3 3v8H3zM10 2.5v3h3M5.5 8.5h5M5.5 11h3.5",
  certificate: "M8 9.5a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM5.5 8.8 4.6 14.5 8 12.6l3.4 1.9-.9-5.7",
  breaker: "M1.5 11h3.3M11.2 11h3.3M4.8 11l5.6-5M4.8 12.2a1.2 1.2 0 1 0 0-2.4 1.2 1.2 0 0 0 0 2.4ZM11.2 12.2a1.2 1.2 0 1 0 0-2.4 1.2 1.2 0 0 0 0 2.4Z",
  explain: "M8 14.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13ZM6.2 6.2a1.9 1.9 0 1 1 2.6 1.7c-.5.2-.8.6-.8 1.3M8 11.6h.01",
  machine: "M4 4h8v8H4zM6.5 6.5h3v3h-3zM6 1.5V4M10 1.5V4M6 12v2.5M10 12v2.5M1.5 6H4M1.5 10H4M12 6h2.5M12 10h2.5",
  lock: "M4 7h8v6.5H4zM5.5 7V5a2.5 2.5 0 0 1 5 0v2",
  unlock: "M4 7h8v6.5H4zM5.5 7V4.6a2.4 2.4 0 0 1 4.6-1",
  warn: "M8 2 14.5 13.5h-13zM8 6.3v3.4M8 11.6h.01",
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  fit: "M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4",
  pause: "M5.5 3v10M10.5 3v10",
  play: "M5 3l8 5-8 5z",
} as const;

export function Icon({ name }: { name: keyof typeof paths }): JSX.Element {
  return (
    <svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  );
}

export function Mark(): JSX.Element {
  return (
    <svg viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" aria-hidden="true">
      <path d="M4 9c6 5 18 5 24 0M4 17c6 5 18 5 24 0M10 5c-3 7-1 16 4 22M22 5c3 7 1 16-4 22" />
    </svg>
  );
}
