// Answers of a control plane that is not there: as large a mesh as asked for, the
// same each time. The shapes are the API's; the numbers are made up.

import type { Certificates, Config, Edge, Graph, GraphNode, Overview, Service, Traffic, Workload } from "../src/api/types.ts";

function dice(seed: number): () => number {
  let s = seed;
  return () => {
    s = (s * 1_103_515_245 + 12_345) & 0x7fffffff;
    return s / 0x7fffffff;
  };
}

function traffic(rps: number, roll: () => number): Traffic {
  const p50 = 0.3 + roll() * 4;
  return {
    rps,
    requests: Math.round(rps * 10),
    success: roll() < 0.02 ? 0.9 + roll() * 0.09 : 1,
    latency: { p50_ms: p50, p90_ms: p50 * 2, p99_ms: p50 * (4 + roll() * 6) },
  };
}

export interface Mesh {
  graph: Graph;
  services: Service[];
  workloads: Workload[];
  overview: Overview;
  config: Config;
  certificates: Certificates;
}

const LAYERS = ["edge", "api", "logic", "data"] as const;

/** mesh makes services in namespaces of twenty; round moves the numbers, not the shape. */
export function mesh(services: number, round = 0): Mesh {
  const shape = dice(7);
  const numbers = dice(11 + round);
  const at = new Date(Date.UTC(2026, 10, 23, 6, 0, round * 2)).toISOString();
  const nodes: GraphNode[] = [];
  const edges: Edge[] = [];
  for (let i = 0; i < services; i++) {
    const namespace = `team-${String(Math.floor(i / 20) + 1).padStart(2, "0")}`;
    const name = `${LAYERS[Math.floor((i % 20) / 5)] ?? "data"}-${String(i).padStart(3, "0")}`;
    const health = numbers() < 0.01 ? "slow" : "ok";
    nodes.push({
      id: `service:${name}.${namespace}.svc.cluster.local`,
      kind: "service",
      namespace,
      name,
      host: `${name}.${namespace}.svc.cluster.local`,
      workloads: [`${namespace}/${name}`],
      instances: 2,
      ready: 2,
      sidecars: 2,
      protocol: "http",
      health,
      mtls: "yes",
      ...traffic(5 + numbers() * 200, numbers),
    });
  }
  nodes.forEach((n, i) => {
    const inside = Math.floor(i / 20) * 20;
    const calls = i % 20 < 15 ? 1 + Math.floor(shape() * 2.4) : 0;
    const targets = new Set<number>();
    for (let c = 0; c < calls; c++) targets.add(Math.min(services - 1, inside + (Math.floor((i % 20) / 5) + 1) * 5 + Math.floor(shape() * 5)));
    if (i % 20 < 10 && shape() < 0.35) targets.add((inside + 20 + Math.floor(shape() * 5)) % services);
    for (const t of targets) {
      const to = nodes[t];
      if (!to?.host || t === i) continue;
      edges.push({
        id: `${n.workloads[0] ?? ""}>${to.host}`,
        source: n.id,
        destination: to.id,
        source_workload: n.workloads[0] ?? "",
        source_identity: `spiffe://cluster.local/ns/${n.namespace}/sa/${n.name}`,
        service: to.host,
        protocol: "http",
        mtls: "yes",
        mtls_share: 1,
        versions: [],
        ...traffic(1 + numbers() * 80, numbers),
      });
    }
  });
  const whole = traffic(nodes.reduce((n, x) => n + x.rps, 0), numbers);
  const leaf = (n: GraphNode): Certificates["leaves"][number] => ({
    proxy: `${n.workloads[0] ?? ""}-1`,
    identity: `spiffe://cluster.local/ns/${n.namespace}/sa/${n.name}`,
    not_before: new Date(Date.now() - 7_200_000).toISOString(),
    not_after: new Date(Date.now() + 79_000_000).toISOString(),
    serial: n.name,
    root: "ab12cd34ef56",
  });
  return {
    graph: { at, generation: 12, window_seconds: 10, left_out: 0, nodes, edges },
    services: nodes.map((n) => ({
      host: n.host ?? "",
      namespace: n.namespace,
      name: n.name,
      external: false,
      ports: [{ name: "http", number: 8080, protocol: "http" }],
      addresses: ["10.43.0.12"],
      instances: 2,
      ready: 2,
      health: n.health,
      mtls: "yes",
      rps: n.rps,
      requests: n.requests,
      success: n.success ?? 1,
      latency: n.latency ?? { p50_ms: 1, p90_ms: 2, p99_ms: 3 },
      versions: [],
    })),
    workloads: nodes.map((n) => ({
      id: n.workloads[0] ?? "",
      namespace: n.namespace,
      name: n.name,
      version: "v1",
      service_account: n.name,
      identity: `spiffe://cluster.local/ns/${n.namespace}/sa/${n.name}`,
      services: [n.host ?? ""],
      instances: 2,
      ready: 2,
      sidecars: 2,
      health: n.health,
      inbound: traffic(10, numbers),
      outbound: traffic(10, numbers),
    })),
    overview: {
      at,
      version: "0.0.0",
      generation: 12,
      trust_domain: "cluster.local",
      place: "kubernetes",
      replica: "seined-0",
      replicas: 1,
      namespaces: [...new Set(nodes.map((n) => n.namespace))],
      services,
      workloads: services,
      instances: services * 2,
      healthy: services * 2,
      mtls_share: 1,
      proxies: { expected: services * 2, connected: services * 2, current: services * 2, behind: 0, refusing: 0, unreadable: 0 },
      findings: { error: 0, warning: 0, info: 0 },
      config_error: "",
      ejected: 0,
      diagnoses: 0,
      ...whole,
    },
    config: { generation: 12, loaded: at, read: at, services, workloads: services * 2, healthy: services * 2, findings: [] },
    certificates: {
      at,
      trust_domain: "cluster.local",
      source: "Secret seine-system/seine-ca",
      roots: [{ id: "ab12cd34ef56", subject: "CN=Seine root", not_before: "2026-01-01T00:00:00Z", not_after: "2036-01-01T00:00:00Z", signs: true, algorithm: "ECDSA-P256" }],
      intermediates: [],
      findings: [],
      leaves: nodes.map(leaf),
      left_out: 0,
    },
  };
}

/** answerFor is what that control plane says; undefined for what it does not know. */
export function answerFor(path: string, m: Mesh): unknown {
  const { pathname, searchParams } = new URL(path, "http://localhost");
  const name = pathname.replace("/api/v1/", "");
  switch (name) {
    case "overview":
      return m.overview;
    case "graph":
      return m.graph;
    case "services":
      return { at: m.overview.at, services: m.services, left_out: 0 };
    case "workloads":
      return { at: m.overview.at, workloads: m.workloads, left_out: 0 };
    case "config":
      return m.config;
    case "resources":
      return { at: m.overview.at, resources: [], left_out: 0 };
    case "proxies":
      return m.workloads.map((w) => ({ id: `${w.id}-1`, identity: w.identity, address: "10.0.0.1:1", connected: m.overview.at, generation: 12, current: true, workload: w.id, version: "0.0.0" }));
    case "certificates":
      return m.certificates;
    case "breakers":
      return { at: m.overview.at, breakers: [], ejected: [], left_out: 0 };
    case "infrastructure":
      return { at: m.overview.at, machines: [], proxies: [], left_out: 0, diagnoses: [] };
    case "series":
      return series(searchParams);
  }
  const service = /^services\/(.+)$/.exec(name);
  if (service?.[1]) {
    const s = m.services.find((x) => x.host === decodeURIComponent(service[1] ?? ""));
    return s && { ...s, callers: m.graph.edges.filter((e) => e.service === s.host), routes: [], breakers: [], ejected: [], diagnoses: [], findings: [] };
  }
  const workload = /^workloads\/(.+)$/.exec(name);
  if (workload?.[1]) {
    const w = m.workloads.find((x) => x.id === decodeURIComponent(workload[1] ?? ""));
    return w && { ...w, instance_list: [], callers: [], calls: m.graph.edges.filter((e) => e.source_workload === w.id), diagnoses: [] };
  }
  return undefined;
}

const POINTS = 180;

function series(q: URLSearchParams): unknown {
  const roll = dice(5);
  const list = (f: () => number): number[] => Array.from({ length: POINTS }, f);
  const one = (version: string) => ({
    version,
    rps: list(() => 40 + roll() * 10),
    success: list(() => (roll() < 0.02 ? 0.99 : 1)),
    p50_ms: list(() => 1 + roll()),
    p90_ms: list(() => 3 + roll()),
    p99_ms: list(() => 8 + roll() * 4),
  });
  const start = new Date(Date.now() - POINTS * 5000).toISOString();
  return { at: start, from: "store", note: "", start, step_seconds: 5, points: POINTS, series: q.get("service") ? [one(""), one("v1"), one("v2")] : [one("")], events: [] };
}
