import { describe, expect, it } from "vitest";
import { mesh } from "../../test/recorded.ts";
import type { Edge, Graph } from "../api/types.ts";
import { arrange, curve, type Plan } from "./layout.ts";
import { thickness } from "./marks.tsx";
import { Memory, next, SEEN, sharesOf, viewOf } from "./model.ts";

const { graph } = mesh(60);
const everything = { namespace: "", text: "", problems: false };

function planOf(g: Graph, label = false): Plan {
  return {
    boxes: g.nodes.map((n) => ({ id: n.id, area: n.namespace, width: 190, height: 54 })),
    wires: g.edges.map((e) => ({ id: e.id, from: e.source, to: e.destination })),
    ...(label ? { label: { width: 118, height: 34 } } : {}),
  };
}

describe("layout", () => {
  it("gives every service a place of its own, and every call a line", () => {
    for (const label of [false, true]) {
      const l = arrange(planOf(graph, label));
      const places = Object.values(l.boxes);
      expect(places).toHaveLength(graph.nodes.length);
      for (const [i, a] of places.entries()) {
        for (const b of places.slice(i + 1)) expect(Math.abs(a.x - b.x) >= 190 || Math.abs(a.y - b.y) >= 54).toBe(true);
        expect(a.x >= 0 && a.y >= 0 && a.x + 190 <= l.width && a.y + 54 <= l.height).toBe(true);
      }
      expect(Object.keys(l.wires).sort()).toEqual(graph.edges.map((e) => e.id).sort());
      expect(l.areas.map((a) => a.name)).toEqual(["team-01", "team-02", "team-03"]);
    }
  });

  it("is the same for the same mesh, whatever its numbers are", () => {
    expect(arrange(planOf(mesh(60, 9).graph))).toEqual(arrange(planOf(graph)));
  });

  it("takes calls to oneself, in circles, and to what is not there", () => {
    const boxes = ["a", "b"].map((id) => ({ id, area: id === "a" ? "" : "n", width: 10, height: 10 }));
    const wires = [["a", "a"], ["a", "b"], ["b", "a"], ["a", "gone"]].map(([from = "", to = ""]) => ({ id: `${from}>${to}`, from, to }));
    const l = arrange({ boxes, wires });
    expect(Object.keys(l.wires).sort()).toEqual(["a>a", "a>b", "b>a"]);
    expect(arrange({ boxes: [], wires: [] }).areas).toEqual([]);
    expect(curve([])).toBe("");
  });
});

const edge = (id: string, versions: [string, number, number?][]): Edge => ({
  id,
  source: "s",
  destination: "d",
  source_workload: "n/s",
  service: "d",
  rps: 1,
  requests: 10,
  success: 1,
  versions: versions.map(([version, rps, wanted]) => ({ version, rps, requests: rps * 10, ...(wanted === undefined ? {} : { wanted }) })),
});

describe("view", () => {
  it("adds up what reaches the versions of a service", () => {
    expect(sharesOf([edge("1", [["v1", 80, 0.9], ["v2", 10, 0.1]]), edge("2", [["v1", 10]])])).toEqual([
      { version: "v1", share: 0.9, wanted: 0.9 },
      { version: "v2", share: 0.1, wanted: 0.1 },
    ]);
    expect(sharesOf([edge("1", [["v1", 80]])])).toEqual([]);
    expect(sharesOf([edge("1", [["v1", 0], ["v2", 0]])]).map((s) => s.share)).toEqual([0, 0]);
  });

  it("shows what is asked for and what stands beside it", () => {
    expect(viewOf(graph, graph.edges, everything).spots).toHaveLength(60);
    const one = viewOf(graph, graph.edges, { ...everything, text: "API-005" });
    const beside = new Set(graph.edges.filter((e) => /api-005/.test(e.source + e.destination)).flatMap((e) => [e.source, e.destination]));
    expect(new Set(one.spots.map((s) => s.node.id))).toEqual(beside);
    expect(viewOf(graph, graph.edges, { ...everything, namespace: "team-02" }).spots.length).toBeLessThan(60);
    expect(viewOf(graph, graph.edges, { ...everything, text: "no such" }).spots).toEqual([]);
  });

  it("keeps calls that pause, as idle ones, for a while", () => {
    const memory = new Memory();
    const without = { ...graph, edges: graph.edges.slice(1) };
    expect(memory.take(graph, 1000)).toHaveLength(graph.edges.length);
    const idle = memory.take(without, 3000).find((e) => e.id === graph.edges[0]?.id);
    expect(idle).toMatchObject({ rps: 0, requests: 0 });
    expect(idle?.latency).toBeUndefined();
    expect(memory.take(without, 1001 + SEEN)).toHaveLength(graph.edges.length - 1);
    expect(memory.take({ ...graph, nodes: [], edges: [] }, 5000)).toEqual([]);
  });
});

describe("arrow keys", () => {
  const places = [{ id: "a", x: 0, y: 0 }, { id: "b", x: 100, y: 10 }, { id: "c", x: 90, y: 300 }, { id: "d", x: 0, y: 80 }];
  it("go to what lies in that direction, straight ahead first", () => {
    const a = places[0] ?? { id: "", x: 0, y: 0 };
    expect(next(places, a, "right")?.id).toBe("b");
    expect(next(places, a, "down")?.id).toBe("d");
    expect(next(places, a, "left")).toBeUndefined();
    expect(next(places, a, "up")).toBeUndefined();
  });
});

it("draws a busy call thicker, within bounds", () => {
  expect(thickness(0)).toBe(1);
  expect(thickness(100)).toBeGreaterThan(thickness(1));
  expect(thickness(1e12)).toBe(5);
});
