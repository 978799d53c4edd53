import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { usePoll } from "../api/poll.ts";
import type { Series, SeriesAnswer } from "../api/types.ts";
import { bytes, millis, rate, success } from "../format.ts";
import { param, setParams } from "../route.ts";
import { Chart, fromZero, type Line } from "./chart.tsx";
import { Answer, Notice } from "./page.tsx";

export const RANGES = ["5m", "15m", "1h", "6h", "24h", "7d"] as const;

export function RangePicker(): JSX.Element {
  const range = param("range", "15m");
  return (
    <label class="inline">
      Last
      <select value={range} onChange={(e) => setParams({ range: e.currentTarget.value === "15m" ? "" : e.currentTarget.value })}>
        {RANGES.map((r) => (
          <option key={r} value={r}>
            {r}
          </option>
        ))}
      </select>
    </label>
  );
}

const tones: Line["tone"][] = ["accent", "accent-3", "line-strong", "warn"];
const MAX_LINES = 4;
// A dip from 100 % to 99.5 % must be seen, and so must one to 10 %.
const nearOne = (min: number): [number, number] => [min >= 0.99 ? 0.98 : min >= 0.9 ? 0.9 : min >= 0.5 ? 0.5 : 0, 1.001];
const requests = fromZero(1);
const latency = fromZero(1);
const volume = fromZero(1000);
const perSecond = (v: number | undefined): string => `${bytes(v)}/s`;

/** timesOf gives the end of each interval, in seconds since 1970. */
export function timesOf(a: SeriesAnswer): number[] {
  const start = Date.parse(a.start) / 1000;
  return Array.from({ length: a.points }, (_, i) => start + i * a.step_seconds);
}

/** versionsOf are the series to draw by version, or the sum where there is one version. */
export function versionsOf(a: SeriesAnswer): Series[] {
  const versions = a.series.filter((s) => s.version !== "");
  const sum = a.series.find((s) => s.version === "");
  return versions.length > 1 || !sum ? versions.slice(0, MAX_LINES) : [sum];
}

/** Golden shows rate, success and latency over time of what the query names. */
export function Golden({ of }: { of: Record<string, string> }): JSX.Element {
  const range = param("range", "15m");
  const query = new URLSearchParams({ ...of, range }).toString();
  const answer = usePoll<SeriesAnswer>(`/api/v1/series?${query}`, 5000);
  return <Answer of={answer.value}>{(a) => <Charts of={a} />}</Answer>;
}

function Charts({ of: a }: { of: SeriesAnswer }): JSX.Element {
  const shown = useMemo(() => {
    const times = timesOf(a);
    const sum = a.series.find((s) => s.version === "") ?? a.series[0];
    const by = versionsOf(a);
    const per = (pick: (s: Series) => Line["points"]): Line[] =>
      by.map((s, i) => ({ label: s.version || "all", points: pick(s), tone: tones[i] ?? "line-strong" }));
    return {
      times,
      rps: per((s) => s.rps),
      success: per((s) => s.success),
      latency: sum
        ? ([
            { label: "P99", points: sum.p99_ms, tone: "accent" },
            { label: "P90", points: sum.p90_ms, tone: "accent-3" },
            { label: "P50", points: sum.p50_ms, tone: "line-strong" },
          ] satisfies Line[])
        : [],
      p99: by.length > 1 ? per((s) => s.p99_ms) : undefined,
      tcp:
        sum?.sent_bytes_per_second && sum.received_bytes_per_second
          ? ([
              { label: "to the client", points: sum.sent_bytes_per_second, tone: "accent" },
              { label: "from the client", points: sum.received_bytes_per_second, tone: "accent-3" },
            ] satisfies Line[])
          : undefined,
      marks: a.events.map((e) => ({ at: Date.parse(e.at) / 1000, text: e.text })),
    };
  }, [a]);
  const start = Date.parse(a.start) / 1000;
  const common = { times: shown.times, marks: shown.marks, from: start, to: start + Math.max(1, a.points - 1) * a.step_seconds };
  return (
    <>
      {a.note && (
        <Notice tone="warn">
          <span>{a.note}</span>
        </Notice>
      )}
      <div class="charts">
        <Chart title="Requests" lines={shown.rps} format={rate} scale={requests} {...common} />
        <Chart title="Success" lines={shown.success} format={success} scale={nearOne} {...common} />
        <Chart title="Latency" lines={shown.latency} format={millis} scale={latency} {...common} />
        {shown.p99 && <Chart title="P99 by version" lines={shown.p99} format={millis} scale={latency} {...common} />}
        {shown.tcp && <Chart title="Bytes" lines={shown.tcp} format={perSecond} scale={volume} {...common} />}
      </div>
      {a.events.length > 0 && <Events of={a.events} />}
    </>
  );
}

function Events({ of }: { of: SeriesAnswer["events"] }): JSX.Element {
  return (
    <details class="small">
      <summary>
        {of.length} {of.length === 1 ? "event" : "events"} in this time (dashed lines)
      </summary>
      <ul>
        {of
          .slice(-50)
          .reverse()
          .map((e) => (
            <li key={e.at + e.text}>
              <time dateTime={e.at}>{new Date(e.at).toLocaleTimeString()}</time> · {e.text}
            </li>
          ))}
      </ul>
    </details>
  );
}
