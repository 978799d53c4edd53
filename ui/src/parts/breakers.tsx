import type { JSX } from "preact";
import type { Breaker, Ejected } from "../api/types.ts";
import { clock, hostOf, millis, rate, span } from "../format.ts";
import { ServiceLink } from "./links.tsx";
import { Table, type Column } from "./table.tsx";

const limits = [
  { limit: "max_connections", refused: "connections", text: "connections" },
  { limit: "max_pending", refused: "pending", text: "waiting" },
  { limit: "max_requests", refused: "requests", text: "requests" },
  { limit: "max_retries", refused: "retries", text: "retries" },
] as const;

function refusedOf(b: Breaker): number {
  return limits.reduce((n, l) => n + (b.refused[l.refused] ?? 0), 0);
}

const columns: Column<Breaker>[] = [
  {
    id: "service",
    title: "Service",
    key: (b) => b.service,
    cell: (b) => (
      <>
        <ServiceLink host={b.service} />
        <span class="soft">
          :{b.port}
          {b.subset ? `, ${b.subset}` : ""}
        </span>
      </>
    ),
  },
  {
    id: "state",
    title: "State",
    key: refusedOf,
    cell: (b) => {
      const n = refusedOf(b);
      return n > 0 ? <span class="tag bad">open: refuses {b.refused_per_second === undefined ? n : rate(b.refused_per_second)}</span> : <span class="tag">closed</span>;
    },
  },
  {
    id: "limits",
    title: "Limits",
    cell: (b) => limits.filter((l) => b.limits[l.limit] !== undefined).map((l) => `${b.limits[l.limit] ?? ""} ${l.text}`).join(", ") || "none",
  },
  {
    id: "refused",
    title: "Refused lately",
    cell: (b) => limits.filter((l) => (b.refused[l.refused] ?? 0) > 0).map((l) => `${b.refused[l.refused] ?? ""} for ${l.text}`).join(", ") || "–",
  },
  { id: "by", title: "By", className: "wide", cell: (b) => (b.proxies.length > 3 ? `${b.proxies.slice(0, 3).join(", ")} and ${b.proxies.length - 3} more` : b.proxies.join(", ") || "–") },
  {
    id: "outlier",
    title: "Ejects an endpoint",
    className: "wide",
    cell: (b) =>
      b.outlier
        ? [
            b.outlier.consecutive_5xx ? `after ${b.outlier.consecutive_5xx} server errors in a row` : "on errors",
            b.outlier.base_ejection_ms ? `for ${millis(b.outlier.base_ejection_ms)} and longer` : "",
            b.outlier.max_ejection_percent ? `at most ${b.outlier.max_ejection_percent} %` : "",
          ].filter(Boolean).join(", ")
        : "never",
  },
  { id: "policy", title: "Written in", className: "wide", cell: (b) => b.policy ?? "default" },
];

export function BreakerTable({ of }: { of: readonly Breaker[] }): JSX.Element {
  return <Table caption="Circuit breakers" name="breakers" columns={columns} rows={of} id={(b) => `${b.service} ${b.port} ${b.subset ?? ""}`} initial={{ column: "state", down: true }} />;
}

const causes: Record<string, string> = {
  consecutive_5xx: "server errors in a row",
  consecutive_gateway_failure: "gateway errors in a row",
  consecutive_local_origin_failure: "failed connections in a row",
};

function reasonOf(e: Ejected): string {
  return e.reason ?? e.causes.map((c) => causes[c] ?? c).join(", ");
}

// Until the proxy's own clock has passed it, an endpoint may stay out.
function back(e: Ejected): string {
  const left = (Date.parse(e.until) - Date.now()) / 1000;
  return left > 0 ? `in ${span(left)} (${clock(e.until)})` : "any moment";
}

const ejected: Column<Ejected>[] = [
  { id: "endpoint", title: "Endpoint", key: (e) => e.endpoint ?? e.address, cell: (e) => <>{e.endpoint || e.address} {e.endpoint && <span class="soft mono">{e.address}</span>}</> },
  { id: "service", title: "Service", key: (e) => e.service, cell: (e) => <><ServiceLink host={e.service}>{hostOf(e.service)}</ServiceLink>{e.subsets?.length ? <span class="soft">, {e.subsets.join(", ")}</span> : ""}</> },
  { id: "why", title: "Why", className: "wide", cell: reasonOf },
  { id: "proxies", title: "Taken out by", numeric: true, key: (e) => e.proxies, cell: (e) => `${e.proxies} ${e.proxies === 1 ? "proxy" : "proxies"}` },
  { id: "until", title: "Comes back", key: (e) => e.until, cell: back },
];

export function EjectedTable({ of }: { of: readonly Ejected[] }): JSX.Element {
  return <Table caption="Ejected endpoints" name="ejected" columns={ejected} rows={of} id={(e) => `${e.service} ${e.address}`} initial={{ column: "until", down: true }} />;
}
