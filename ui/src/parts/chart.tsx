import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { clock } from "../format.ts";
import { shade } from "../preferences.ts";
import type { Points } from "../api/types.ts";

export interface Line {
  label: string;
  points: Points;
  tone: "accent" | "accent-3" | "line-strong" | "bad" | "warn";
}

export interface Mark {
  at: number; // seconds since 1970
  text: string;
}

const HEIGHT = 160;

interface Props {
  title: string;
  times: number[]; // seconds since 1970
  lines: Line[];
  format: (v: number | undefined) => string;
  /** scale gives bottom and top of the axis for the least and greatest value. */
  scale: (min: number, max: number) => [number, number];
  marks?: Mark[];
  /** from and to are the ends of the axis, where they are though values are missing. */
  from: number;
  to: number;
}

const dots: Record<Line["tone"], string> = { accent: "i-accent", "accent-3": "i-accent2", "line-strong": "i-soft", bad: "i-bad", warn: "i-warn" };

/** fromZero is a scale that is at least so high: noise shall not look like news. */
export function fromZero(floor: number): Props["scale"] {
  return (_, max) => [0, Math.max(floor, max * 1.12)];
}

/** colour resolves a custom property as the theme has it now; a canvas cannot. */
function colour(host: HTMLElement, name: string): string {
  const probe = host.appendChild(document.createElement("span"));
  probe.className = "probe";
  probe.style.color = `var(--${name})`;
  const c = getComputedStyle(probe).color;
  probe.remove();
  return c;
}

function last(points: Points): number | undefined {
  for (let i = points.length - 1; i >= 0; i--) {
    const v = points[i];
    if (v !== null && v !== undefined) return v;
  }
  return undefined;
}

/** Chart draws lines over time. What it shows is also there as words and as a table. */
export function Chart(p: Props): JSX.Element {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const marks = useRef<Mark[]>([]);
  marks.current = p.marks ?? [];
  const range = useRef<[number, number]>([p.from, p.to]);
  range.current = [p.from, p.to];
  const dark = shade.value;
  const shape = p.lines.map((l) => `${l.label}|${l.tone}`).join("\n");
  const data = [p.times, ...p.lines.map((l) => l.points)] as uPlot.AlignedData;
  const latest = useRef(data);
  latest.current = data;
  const { format, scale } = p;
  const pointed = useSignal<number | undefined>(undefined);

  useEffect(() => {
    const el = host.current;
    if (!el) return;
    const soft = colour(el, "soft");
    const grid = colour(el, "line");
    const warn = colour(el, "warn");
    const axis = { stroke: soft, font: "11px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: grid, width: 1 } };
    const series = shape.split("\n").filter(Boolean).map((s): uPlot.Series => {
      const [label = "", tone = "accent"] = s.split("|");
      return { label, stroke: colour(el, tone), width: 1.6, points: { size: 4 }, value: (_, v: number | null) => format(v ?? undefined) };
    });
    const u = new uPlot(
      {
        width: el.clientWidth || 400,
        height: HEIGHT,
        padding: [8, 12, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "golden" }, points: { size: 6 }, drag: { x: false, y: false } },
        scales: {
          x: { range: () => range.current },
          // Without a value there is neither least nor greatest.
          y: { range: (_, min: number | null, max: number | null) => scale(min ?? 0, max ?? 0) },
        },
        axes: [
          { ...axis, grid: { show: false }, size: 26, space: 70, values: (_, at) => at.map((t) => clock(t * 1000).slice(0, 5)) },
          { ...axis, size: 62, space: 34, values: (_, at) => at.map((v) => format(v)) },
        ],
        series: [{}, ...series],
        hooks: {
          draw: [
            (u) => {
              const { ctx, bbox } = u;
              ctx.save();
              ctx.strokeStyle = warn;
              ctx.setLineDash([3, 3]);
              for (const m of marks.current) {
                const x = u.valToPos(m.at, "x", true);
                if (x < bbox.left || x > bbox.left + bbox.width) continue;
                ctx.beginPath();
                ctx.moveTo(x, bbox.top);
                ctx.lineTo(x, bbox.top + bbox.height);
                ctx.stroke();
              }
              ctx.restore();
            },
          ],
          setCursor: [(u) => (pointed.value = u.cursor.idx ?? undefined)],
        },
      },
      latest.current,
      el,
    );
    plot.current = u;
    const sized = new ResizeObserver(() => {
      if (el.clientWidth > 0 && el.clientWidth !== u.width) u.setSize({ width: el.clientWidth, height: HEIGHT });
    });
    sized.observe(el);
    return () => {
      sized.disconnect();
      u.destroy();
      plot.current = null;
    };
    // A canvas has its colours drawn in: another theme is another plot.
  }, [shape, dark, format, scale, pointed]);

  useEffect(() => {
    plot.current?.setData(latest.current);
  }, [p.times, p.lines, p.from, p.to]);

  const i = pointed.value;
  const value = (l: Line): number | undefined => (i === undefined ? last(l.points) : (l.points[i] ?? undefined));
  const at = i === undefined ? undefined : p.times[i];
  const said = p.lines.map((l) => `${l.label} ${format(last(l.points))}`).join(", ");
  return (
    <section class="card chart" aria-label={p.title}>
      <header>
        <h2>{p.title}</h2>
        <span class="now end">
          {at !== undefined && <span>{clock(at * 1000)}</span>}
          {p.lines.map((l) => (
            <span key={l.label}>
              <i class={dots[l.tone]} />
              {l.label} <b>{format(value(l))}</b>
            </span>
          ))}
        </span>
      </header>
      <div class="body">
        <div class="plot" ref={host} role="img" aria-label={`${p.title} over time; now ${said || "nothing"}`} />
        <Values {...p} />
      </div>
    </section>
  );
}

const ROWS = 12;

// Values is the same as a table, thinned out.
function Values({ title, times, lines, format }: Props): JSX.Element | null {
  if (times.length === 0) return null;
  const every = Math.max(1, Math.ceil(times.length / ROWS));
  const rows = times.map((t, i) => ({ t, i })).filter(({ i }) => (times.length - 1 - i) % every === 0);
  return (
    <details class="small">
      <summary>As a table</summary>
      <table>
        <caption class="hidden">{title} over time</caption>
        <thead>
          <tr>
            <th scope="col">Time</th>
            {lines.map((l) => (
              <th key={l.label} scope="col" class="num">
                {l.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ t, i }) => (
            <tr key={t}>
              <th scope="row">{clock(t * 1000)}</th>
              {lines.map((l) => (
                <td key={l.label} class="num">
                  {format(l.points[i] ?? undefined)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}
