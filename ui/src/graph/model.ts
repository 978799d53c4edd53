// From the control plane's graph to what is drawn. Pure.

import type { Edge, Graph, GraphNode } from "../api/types.ts";

export interface Share {
  version: string;
  workload?: string;
  share: number; // 0..1, measured
  wanted?: number; // 0..1, as the route says
}

export interface Spot {
  node: GraphNode;
  shares: Share[]; // two or more, or none
}

export interface View {
  spots: Spot[];
  edges: Edge[];
}

/** sharesOf sums what reaches each version of a service, over all callers. */
export function sharesOf(edges: readonly Edge[]): Share[] {
  const sum = new Map<string, { traffic: number; wanted?: number; workload?: string }>();
  for (const e of edges) {
    for (const v of e.versions ?? []) {
      const s = sum.get(v.version) ?? { traffic: 0 };
      if (v.workload) s.workload = v.workload;
      s.traffic += v.rps || (v.tcp?.opened_per_second ?? 0);
      if (v.wanted !== undefined) s.wanted = v.wanted;
      sum.set(v.version, s);
    }
  }
  if (sum.size < 2) return [];
  const all = [...sum.values()].reduce((n, s) => n + s.traffic, 0);
  return [...sum]
    .map(([version, s]): Share => ({ version, share: all > 0 ? s.traffic / all : 0, ...(s.wanted === undefined ? {} : { wanted: s.wanted }), ...(s.workload ? { workload: s.workload } : {}) }))
    .sort((a, b) => a.version.localeCompare(b.version, "en", { numeric: true }));
}

/** SEEN is how long a call that stopped is still drawn, in milliseconds. */
export const SEEN = 300_000;

/**
 * Memory keeps calls that pause in the picture, as idle ones: a graph that
 * rearranges itself between two looks cannot be read.
 */
export class Memory {
  private readonly edges = new Map<string, { edge: Edge; at: number }>();

  /** take adds what is seen now and returns what is to be drawn. */
  take(g: Graph, now: number): Edge[] {
    const nodes = new Set(g.nodes.map((n) => n.id));
    for (const e of g.edges) this.edges.set(e.id, { edge: e, at: now });
    const drawn: Edge[] = [];
    for (const [id, { edge, at }] of this.edges) {
      if (now - at > SEEN || !nodes.has(edge.source) || !nodes.has(edge.destination)) this.edges.delete(id);
      else drawn.push(at === now ? edge : paused(edge));
    }
    return drawn.sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}

function paused(e: Edge): Edge {
  const rest = { ...e, rps: 0, requests: 0 };
  delete rest.success;
  delete rest.latency;
  delete rest.tcp;
  delete rest.versions;
  return rest;
}

export interface Filter {
  namespace: string; // "" for all
  text: string;
  problems: boolean;
}

/** troubled says whether a node needs a look. */
export function troubled(n: GraphNode): boolean {
  return n.health !== "ok" && n.health !== "idle";
}

/** failing says whether a call needs a look. */
export function failing(e: Edge): boolean {
  return e.success !== undefined && e.success < 0.99;
}

/**
 * viewOf picks what the filter asks for, and what stands directly beside it: a
 * service without its callers says little.
 */
export function viewOf(g: Graph, edges: readonly Edge[], f: Filter): View {
  const text = f.text.trim().toLowerCase();
  const all = !f.namespace && !text && !f.problems;
  const chosen = new Set<string>();
  const bad = f.problems ? new Set(edges.filter(failing).flatMap((e) => [e.source, e.destination])) : undefined;
  for (const n of g.nodes) {
    if (f.namespace && n.namespace !== f.namespace) continue;
    if (text && !`${n.name}.${n.namespace} ${n.host ?? ""} ${n.workloads.join(" ")}`.toLowerCase().includes(text)) continue;
    if (bad && !troubled(n) && !bad.has(n.id)) continue;
    chosen.add(n.id);
  }
  const kept = all ? [...edges] : edges.filter((e) => chosen.has(e.source) || chosen.has(e.destination));
  const beside = new Set(chosen);
  for (const e of kept) beside.add(e.source).add(e.destination);
  const into = new Map<string, Edge[]>();
  for (const e of edges) {
    const list = into.get(e.destination);
    if (list) list.push(e);
    else into.set(e.destination, [e]);
  }
  const spots = g.nodes
    .filter((n) => beside.has(n.id))
    .map((node) => ({ node, shares: sharesOf(into.get(node.id) ?? []) }))
    .sort((a, b) => (a.node.id < b.node.id ? -1 : 1));
  return { spots, edges: kept };
}

export type Way = "left" | "right" | "up" | "down";

export interface Place {
  id: string;
  x: number; // of the middle
  y: number;
}

/** next is the nearest place in a direction, for the arrow keys; undefined at the edge. */
export function next(places: readonly Place[], from: Place, way: Way): Place | undefined {
  let best: Place | undefined;
  let least = Infinity;
  for (const p of places) {
    if (p.id === from.id) continue;
    const dx = p.x - from.x;
    const dy = p.y - from.y;
    const [along, across] = way === "left" ? [-dx, dy] : way === "right" ? [dx, dy] : way === "up" ? [-dy, dx] : [dy, dx];
    if (along <= 1) continue;
    const far = along + 2 * Math.abs(across);
    if (far < least) {
      least = far;
      best = p;
    }
  }
  return best;
}
