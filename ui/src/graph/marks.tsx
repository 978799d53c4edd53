// What a service and a call look like.

import type { JSX } from "preact";
import type { Edge } from "../api/types.ts";
import { hostOf, millis, rate, share, success, versionWord } from "../format.ts";
import { toEdge, toNode } from "../parts/links.tsx";
import { healthWord, mtlsWord } from "../parts/words.tsx";
import type { Layout, Point } from "./layout.ts";
import { failing, troubled, type Spot } from "./model.ts";

export const WIDTH = 190;
const HEIGHT = 54;
const SHARES = 28; // more, where there are versions

export function heightOf(s: Spot): number {
  return HEIGHT + (s.shares.length > 0 ? SHARES : 0);
}

/** clip keeps text within a box of so many letters. */
export function clip(text: string, letters: number): string {
  return text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
}

function traffic(s: Spot): string {
  const n = s.node;
  if (n.requests > 0) return [rate(n.rps), success(n.success), `P99 ${millis(n.latency?.p99_ms)}`].join(" · ");
  if (n.tcp && n.tcp.open > 0) return `${n.tcp.open} open connections`;
  return "no requests now";
}

function sharesLine(s: Spot): string {
  return clip(s.shares.filter((v) => v.share >= 0.005).slice(0, 4).map((v) => `${versionWord(v)} ${share(v.share)}`).join(" · "), 28);
}

// A name begins with what is seen (WCAG 2.5.3): who speaks to their machine says
// what they read.
function spoken(s: Spot, seen: string[]): string {
  const n = s.node;
  const more = [n.namespace && `in ${n.namespace}`, healthWord(n.health), seen[0] === n.name ? "" : n.name];
  return [seen.filter(Boolean).join(" "), ...more].filter(Boolean).join(", ");
}

export function nodeMark(s: Spot, at: Point, how: { dim: boolean; stop: boolean }): JSX.Element {
  const n = s.node;
  const h = heightOf(s);
  const bad = troubled(n);
  const seen = [clip(n.name, bad ? 15 : 24), bad ? n.health : "", clip(traffic(s), 34), s.shares.length > 0 ? sharesLine(s) : ""];
  const cls = ["node", n.health, n.kind === "outside" ? "outside" : "", n.external ? "external" : "", how.dim ? "dimmed" : ""].join(" ");
  const body = (
    <>
      <rect class="ring" x={-4} y={-4} width={WIDTH + 8} height={h + 8} rx={11} />
      <rect class="box" width={WIDTH} height={h} rx={8} />
      <text class="name" x={12} y={22}>
        {seen[0]}
      </text>{" "}
      {bad && (
        <text class="flag" x={WIDTH - 12} y={22} text-anchor="end">
          {seen[1]}
        </text>
      )}{" "}
      <text class="line" x={12} y={41}>
        {seen[2]}
      </text>{" "}
      {s.shares.length > 0 && <Shares of={s} />}
    </>
  );
  // A transform as a property moves smoothly where motion is welcome.
  const common = {
    class: cls,
    style: { transform: `translate(${at.x.toFixed(1)}px, ${at.y.toFixed(1)}px)` },
    "data-id": n.id,
    tabindex: how.stop ? 0 : -1,
    "aria-label": spoken(s, seen),
  };
  const link = toNode(n);
  return link ? (
    <a key={n.id} {...common} href={link}>
      {body}
    </a>
  ) : (
    <g key={n.id} {...common} role="img">
      {body}
    </g>
  );
}

// Shares is one bar of the versions, with a tick where the route wants the border.
function Shares({ of: s }: { of: Spot }): JSX.Element {
  const width = WIDTH - 24;
  let x = 12;
  let wanted = 0;
  const parts = s.shares.slice(0, 4);
  return (
    <>
      {parts.map((v, i) => {
        const w = v.share * width;
        const at = x;
        x += w;
        return <rect key={v.version} class={`s${i + 1}`} x={at} y={51} width={Math.max(0, w - (i < parts.length - 1 ? 1 : 0))} height={6} />;
      })}
      {parts.slice(0, -1).map((v) => {
        wanted += v.wanted ?? NaN;
        return Number.isFinite(wanted) && <rect key={v.version} class="want" x={12 + wanted * width - 1} y={48} width={2} height={12} fill="var(--ink)" />;
      })}
      <text class="line" x={12} y={73}>
        {sharesLine(s)}
      </text>
    </>
  );
}

/** thickness grows with the logarithm of the rate: 1 at rest, 5 at 10,000 a second. */
export function thickness(rps: number): number {
  return 1 + Math.min(4, Math.log10(1 + Math.max(0, rps)));
}

// What a letter of a label and the lock before it take.
const LETTER = 6.2;
const LOCK = 12;

/** protocolWord is a protocol as people write it. */
export function protocolWord(p: string | undefined): string {
  return (p ?? "").split(",").filter(Boolean).map((x) => (x === "grpc" ? "gRPC" : x.toUpperCase())).join(", ");
}

export function edgeMark(e: Edge, wire: Layout["wires"][string], how: { dim: boolean; labelled: boolean }): JSX.Element {
  const idle = e.rps === 0 && (e.tcp?.open ?? 0) === 0;
  const open = e.mtls === "no" || e.mtls === "mixed";
  const tone = failing(e) ? "bad" : open ? "warn" : "";
  const quick = e.latency ? `${millis(e.latency.p50_ms)} / ${millis(e.latency.p99_ms)}` : "";
  const numbers = idle ? "idle" : e.requests > 0 ? rate(e.rps) : `${e.tcp?.open ?? 0} open`;
  const ok = e.success !== undefined && e.success < 1 ? ` ${success(e.success)}` : "";
  const protocol = idle ? "" : protocolWord(e.protocol);
  const spoken = [
    [`${e.source_workload} calls ${hostOf(e.service)}:`, `${numbers}${ok}`, protocol, idle ? "" : quick].filter(Boolean).join(" "),
    e.success === undefined ? "" : `success ${success(e.success)}`,
    e.latency ? `P50 ${millis(e.latency.p50_ms)}, P99 ${millis(e.latency.p99_ms)}` : "",
    mtlsWord(e.mtls),
    ...(e.versions && e.versions.length > 1 ? e.versions.map((v) => `${versionWord(v)} ${share(v.share)}`) : []),
  ].filter(Boolean).join(", ");
  const width = thickness(e.rps);
  const { x, y } = wire.label;
  const second = quick || protocolWord(e.protocol);
  const first = (numbers.length + ok.length + protocol.length + 1) * LETTER;
  const half = Math.max(first + LOCK, second.length * LETTER) / 2 + 5;
  const lock = x - (first + LOCK) / 2;
  return (
    <a key={e.id} class={`edge ${idle ? "idle" : tone} ${how.dim ? "dimmed" : ""}`} href={toEdge(e.source_workload, e.service)} tabindex={-1} aria-label={spoken}>
      <title>{spoken}</title>
      <path class="hit" d={wire.path} />
      <path class="wire" d={wire.path} stroke-width={width} marker-end={`url(#tip${idle ? "" : tone})`} />
      {how.labelled && (
        <g class="label">
          <rect x={x - half} y={y - 16} width={2 * half} height={second ? 32 : 17} rx={4} />
          {!idle && (e.mtls === "yes" || open) && (
            <path class={open ? "openmark" : "lockmark"} d={`M${lock} ${y - 7.5}h7v5.5h-7zm1.4 0v-2a2.1 2.1 0 0 1 ${open ? "4 -1" : "4.2 0v2"}`} />
          )}
          <text x={x + (idle ? 0 : LOCK / 2)} y={y - 2}>
            <tspan class="strong">{numbers}</tspan>
            {ok && <tspan class="strong">{ok}</tspan>}
            {protocol && <tspan>{` ${protocol}`}</tspan>}
          </text>{" "}
          {quick && !idle && (
            <text x={x} y={y + 12}>
              {quick}
            </text>
          )}
        </g>
      )}
    </a>
  );
}
