// The shapes of the control plane's API, as docs/dashboard.md describes them. A
// member that may be absent is not known.

export interface Latency {
  p50_ms: number;
  p90_ms: number;
  p99_ms: number;
}

export interface Traffic {
  rps: number;
  requests: number;
  success?: number;
  latency?: Latency;
  tcp?: {
    open: number;
    opened_per_second: number;
    sent_bytes_per_second: number;
    received_bytes_per_second: number;
  };
}

export type Health = "ok" | "idle" | "failing" | "slow" | "ejected" | "down";
export type Mtls = "yes" | "no" | "mixed" | "unknown";

export interface Overview extends Traffic {
  at: string;
  version: string;
  generation: number;
  trust_domain: string;
  place: string;
  replica: string;
  replicas: number;
  namespaces: string[];
  services: number;
  workloads: number;
  instances: number;
  healthy: number;
  mtls_share?: number;
  proxies: { expected: number; connected: number; current: number; behind: number; refusing: number; unreadable: number };
  findings: { error: number; warning: number; info: number };
  config_error: string;
  ejected: number;
  diagnoses: number;
  certificate?: { what: string; not_after: string };
  prometheus?: { configured: boolean; ok: boolean; error?: string };
  history?: { recent_seconds: number; long_seconds: number; series: number; left_out: number };
}

export interface GraphNode extends Traffic {
  id: string;
  kind: "workload" | "service" | "outside";
  namespace: string;
  name: string;
  host?: string;
  workloads: string[];
  instances: number;
  ready: number;
  sidecars: number;
  protocol?: string;
  health: Health;
  ejected?: number;
  external?: boolean;
  mtls?: Mtls;
}

export interface Version extends Traffic {
  version: string;
  workload?: string;
  share?: number;
  wanted?: number;
  instances?: number;
  ready?: number;
}

export interface Edge extends Traffic {
  id: string;
  source: string;
  destination: string;
  source_workload: string;
  source_identity?: string;
  service: string;
  protocol?: string;
  mtls?: Mtls;
  mtls_share?: number;
  versions?: Version[];
  route?: string;
}

export interface Graph {
  at: string;
  generation: number;
  window_seconds: number;
  left_out: number;
  nodes: GraphNode[];
  edges: Edge[];
}

export interface Service extends Traffic {
  host: string;
  namespace: string;
  name: string;
  external: boolean;
  ports: { name: string; number: number; protocol: string }[];
  addresses: string[];
  instances: number;
  ready: number;
  health: Health;
  mtls: Mtls;
  versions: Version[];
}

export interface ServiceDetail extends Service {
  callers: Edge[];
  routes: Route[];
  breakers: Breaker[];
  ejected: Ejected[];
  diagnoses: Diagnosis[];
  findings: Finding[];
}

export interface Workload {
  id: string;
  namespace: string;
  name: string;
  version: string;
  service_account: string;
  identity: string;
  services: string[];
  instances: number;
  ready: number;
  sidecars: number;
  health: Health;
  inbound?: Traffic;
  outbound?: Traffic;
}

export interface Instance {
  id: string;
  address: string;
  node?: string;
  ready: boolean;
  sidecar: boolean;
  proxy?: Proxy;
}

export interface WorkloadDetail extends Workload {
  instance_list: Instance[];
  callers: Edge[];
  calls: Edge[];
  authz?: Authz;
  diagnoses: Diagnosis[];
}

export interface Authz {
  workload: string;
  identity: string;
  sidecar: boolean;
  ports: { port: number; mode: string; source: string }[];
  default?: { mode: string; source: string };
  authorization?: { supported: boolean; text: string };
  callers: { identity: string; workload?: string; seen: boolean }[];
}

export type Points = (number | null)[];

export interface Series {
  version: string;
  rps: Points;
  success: Points;
  p50_ms: Points;
  p90_ms: Points;
  p99_ms: Points;
  open?: Points;
  sent_bytes_per_second?: Points;
  received_bytes_per_second?: Points;
}

export interface SeriesAnswer {
  at: string;
  from: string;
  note: string;
  start: string;
  step_seconds: number;
  points: number;
  series: Series[];
  events: { at: string; kind: string; text: string }[];
}

export interface Source {
  kind: string;
  namespace?: string;
  name: string;
  file?: string;
  line?: number;
}

export interface Route extends Partial<Traffic> {
  id: string;
  service: string;
  port: number;
  kind: string;
  source: Source;
  matches: string[];
  destinations: { host: string; subset?: string; port: number; weight: number; wanted?: number; measured?: number }[];
  timeout_ms?: number;
  retries?: string;
  mirrors?: string[];
  fault?: string;
}

export interface Finding {
  code: string;
  istio?: string;
  severity: "error" | "warning" | "info";
  kind?: string;
  namespace?: string;
  name?: string;
  path?: string;
  file?: string;
  line?: number;
  message: string;
  refused?: boolean;
}

export interface Config {
  generation: number;
  loaded: string;
  services: number;
  workloads: number;
  healthy: number;
  read: string;
  error?: string;
  findings: Finding[] | null;
  acknowledged?: { proxies: number; current: number; behind: { id: string; generation: number; seconds: number }[] };
  changes?: {
    generation: number;
    at: string;
    endpoints_only: boolean;
    services: number;
    workloads: number;
    acknowledged: number;
    proxies: number;
    all_acknowledged_seconds?: number;
  }[];
}

export interface Resource extends Source {
  created?: string;
  state: "ok" | "warning" | "error" | "refused";
  findings: Finding[];
  refused_by: { proxy: string; message: string }[];
}

export interface Resources {
  at: string;
  resources: Resource[];
  left_out: number;
}

export interface Proxy {
  id: string;
  identity: string;
  version?: string;
  address: string;
  connected: string;
  generation: number;
  current: boolean | null;
  rejected?: { type: string; name: string; generation: number; message: string; at: string; source?: string }[];
  workload?: string;
  node?: string;
  last_ack?: string;
  memory_bytes?: number;
  cpu_cores?: number;
  started?: string;
  certificate_not_after?: string;
  scrape_error?: string;
  connections?: number;
  replica?: string;
  elsewhere?: boolean;
}

export interface Certificates {
  at: string;
  trust_domain: string;
  source: string;
  roots: { id: string; subject: string; not_before: string; not_after: string; signs: boolean; algorithm: string }[];
  intermediates: { subject: string; not_before: string; not_after: string; replica?: string }[];
  control?: { not_after: string };
  rotation?: { step: string; old: string; new: string; since: string; waiting: string };
  findings: string[];
  leaves: { proxy: string; identity: string; not_before?: string; not_after: string; serial?: string; root?: string }[];
  left_out: number;
}

export interface Breaker {
  service: string;
  port: number;
  subset?: string;
  policy?: string;
  limits: { max_connections?: number; max_pending?: number; max_requests?: number; max_retries?: number };
  refused: { connections?: number; pending?: number; requests?: number; retries?: number };
  refused_per_second?: number;
  proxies: string[];
  outlier?: { consecutive_5xx?: number; interval_ms?: number; base_ejection_ms?: number; max_ejection_percent?: number };
}

export interface Ejected {
  service: string;
  subsets?: string[];
  endpoint?: string;
  address: string;
  proxies: number;
  causes: string[];
  until: string;
  reason?: string;
}

export interface Breakers {
  at: string;
  breakers: Breaker[];
  ejected: Ejected[];
  left_out: number;
}

export interface Quantiles {
  p50_ms: number;
  p99_ms: number;
}

export interface Diagnosis {
  since: string;
  service: string;
  version: string;
  workload: { namespace: string; workload: string };
  caller?: string;
  shape: "tail" | "shift";
  before: Quantiles;
  after: Quantiles;
  slower: number;
  cause: "application" | "version" | "dependency" | "network" | "node";
  culprit: string;
  signal?: string;
  evidence: string[];
  explanation: string;
}

export interface Signal {
  name: string;
  value: number;
  usual?: number;
  raised: boolean;
  text: string;
}

export interface Infrastructure {
  at: string;
  machines: { id: string; node?: string; proxies: string[]; signals: Signal[] }[];
  proxies: { id: string; machine?: string; signals: Signal[] }[];
  left_out: number;
  diagnoses: Diagnosis[];
  learning?: { windows: number; needed: number; judged: number; waiting: number };
}

export interface Question {
  from?: string;
  to?: string;
  method?: string;
  url?: string;
  headers?: string[];
  principal?: string;
  sourceIP?: string;
}

export interface Explained {
  outcome: string;
  reason?: string;
  service?: string;
  port?: number;
  route?: Source & { rule?: number; delegate?: string };
  destinations?: { host: string; subset?: string; port: number; weight: number; status?: number }[];
  request?: { authority: string; path: string; headers?: Record<string, string> };
  status?: number;
  location?: string;
  flag?: string;
  timeout?: string;
  retries?: { attempts: number; perTryTimeout?: string; retryOn?: string };
  mtls?: string;
  endpoints?: { address: string; workload?: string; subset?: string; identity?: string; tls: string; mtls?: string; healthy: boolean }[];
  unsupported?: string[];
  steps: string[];
}
