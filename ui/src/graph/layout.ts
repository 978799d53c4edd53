// Where things stand. Each namespace is arranged by itself, callers left of what
// they call, and the namespaces among each other in the same way: 500 services
// take a fraction of a second, and a change in one namespace moves little in the
// others. Pure; the same input gives the same places.

import { Graph, layout } from "@dagrejs/dagre";

export interface Box {
  id: string;
  area: string; // namespace; "" stands outside of them
  width: number;
  height: number;
}

export interface Wire {
  id: string;
  from: string;
  to: string;
}

export interface Plan {
  boxes: Box[];
  wires: Wire[];
  /** room for a label on each wire, if they are to have one. */
  label?: { width: number; height: number };
}

export interface Point {
  x: number;
  y: number;
}

export interface Area {
  name: string;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Layout {
  width: number;
  height: number;
  boxes: Record<string, Point>; // top left corners
  wires: Record<string, { path: string; label: Point }>;
  areas: Area[];
}

const PAD = 20;
const TITLE = 26; // above the boxes of an area

interface Inner {
  name: string;
  width: number;
  height: number;
  boxes: Map<string, Point>;
  points: Map<string, Point[]>;
  labels: Map<string, Point>;
}

function inner(name: string, boxes: Box[], wires: Wire[], label: Plan["label"]): Inner {
  const g = new Graph({ multigraph: true });
  g.setGraph({ rankdir: "LR", nodesep: 22, edgesep: 16, ranksep: label ? 18 : 64, ranker: boxes.length > 60 ? "longest-path" : "network-simplex" });
  for (const b of boxes) g.setNode(b.id, { width: b.width, height: b.height });
  for (const w of wires) {
    if (w.from !== w.to) g.setEdge(w.from, w.to, label ? { ...label, labelpos: "c" } : {}, w.id);
  }
  layout(g);
  const size = g.graph() as { width?: number; height?: number };
  const framed = name !== "";
  const left = framed ? PAD : 0;
  const top = framed ? PAD + TITLE : 0;
  const out: Inner = {
    name,
    width: (size.width ?? 0) + 2 * left,
    height: (size.height ?? 0) + top + (framed ? PAD : 0),
    boxes: new Map(),
    points: new Map(),
    labels: new Map(),
  };
  for (const b of boxes) {
    const n = g.node(b.id) as Point;
    out.boxes.set(b.id, { x: n.x - b.width / 2 + left, y: n.y - b.height / 2 + top });
  }
  for (const e of g.edges()) {
    const laid = g.edge(e) as { points?: Point[]; x?: number; y?: number };
    const id = e.name ?? "";
    if (laid.points) out.points.set(id, laid.points.map((p) => ({ x: p.x + left, y: p.y + top })));
    if (laid.x !== undefined && laid.y !== undefined) out.labels.set(id, { x: laid.x + left, y: laid.y + top });
  }
  return out;
}

/** arrange places boxes and wires. */
export function arrange(plan: Plan): Layout {
  const areaOf = new Map(plan.boxes.map((b) => [b.id, b.area]));
  const wires = plan.wires.filter((w) => areaOf.has(w.from) && areaOf.has(w.to));
  const names = [...new Set(plan.boxes.map((b) => b.area))].sort();
  const inners = new Map(
    names.map((name) => [
      name,
      inner(
        name,
        plan.boxes.filter((b) => b.area === name),
        wires.filter((w) => areaOf.get(w.from) === name && areaOf.get(w.to) === name),
        plan.label,
      ),
    ]),
  );
  // The areas among each other.
  const g = new Graph();
  const gap = plan.label ? plan.label.width + 36 : 70;
  g.setGraph({ rankdir: "LR", nodesep: 28, ranksep: gap, marginx: 12, marginy: 12, ranker: "longest-path" });
  for (const [name, i] of inners) g.setNode(`a:${name}`, { width: i.width, height: i.height });
  for (const w of wires) {
    const from = areaOf.get(w.from) ?? "";
    const to = areaOf.get(w.to) ?? "";
    if (from !== to) g.setEdge(`a:${from}`, `a:${to}`, {});
  }
  layout(g);
  const out: Layout = { width: 0, height: 0, boxes: {}, wires: {}, areas: [] };
  for (const [name, i] of inners) {
    const n = g.node(`a:${name}`) as Point;
    const x = n.x - i.width / 2;
    const y = n.y - i.height / 2;
    if (name !== "") out.areas.push({ name, x, y, width: i.width, height: i.height });
    for (const [id, p] of i.boxes) out.boxes[id] = { x: p.x + x, y: p.y + y };
    for (const [id, points] of i.points) {
      const moved = points.map((p) => ({ x: p.x + x, y: p.y + y }));
      const at = i.labels.get(id);
      out.wires[id] = { path: curve(moved), label: at ? { x: at.x + x, y: at.y + y } : middle(moved) };
    }
    out.width = Math.max(out.width, x + i.width + 12);
    out.height = Math.max(out.height, y + i.height + 12);
  }
  const boxOf = new Map(plan.boxes.map((b) => [b.id, b]));
  for (const w of wires) {
    if (out.wires[w.id]) continue;
    const from = boxOf.get(w.from);
    const to = boxOf.get(w.to);
    const a = out.boxes[w.from];
    const b = out.boxes[w.to];
    if (from && to && a && b) out.wires[w.id] = w.from === w.to ? around(a, from) : between(a, from, b, to);
  }
  return out;
}

const round = (n: number): string => n.toFixed(1);

/** curve is a smooth line through points. */
export function curve(points: readonly Point[]): string {
  const [first, ...rest] = points;
  const end = rest.pop();
  if (!first || !end) return "";
  if (rest.length === 0) return `M${round(first.x)} ${round(first.y)}L${round(end.x)} ${round(end.y)}`;
  let d = `M${round(first.x)} ${round(first.y)}`;
  rest.forEach((p, i) => {
    const n = rest[i + 1];
    const to = n ? { x: (p.x + n.x) / 2, y: (p.y + n.y) / 2 } : end;
    d += `Q${round(p.x)} ${round(p.y)} ${round(to.x)} ${round(to.y)}`;
  });
  return d;
}

function middle(points: readonly Point[]): Point {
  return points[Math.floor(points.length / 2)] ?? { x: 0, y: 0 };
}

// between leads from the right side of one box to the left side of another.
function between(a: Point, from: Box, b: Point, to: Box): Layout["wires"][string] {
  const s = { x: a.x + from.width, y: a.y + from.height / 2 };
  const e = { x: b.x, y: b.y + to.height / 2 };
  const bend = Math.max(40, Math.abs(e.x - s.x) * 0.45);
  const path = `M${round(s.x)} ${round(s.y)}C${round(s.x + bend)} ${round(s.y)} ${round(e.x - bend)} ${round(e.y)} ${round(e.x)} ${round(e.y)}`;
  return { path, label: { x: (s.x + e.x) / 2, y: (s.y + e.y) / 2 } };
}

// around is a call to oneself.
function around(a: Point, box: Box): Layout["wires"][string] {
  const x = a.x + box.width / 2;
  const y = a.y;
  return { path: `M${round(x + 20)} ${round(y)}c26 -30 -66 -30 -40 0`, label: { x, y: y - 22 } };
}
