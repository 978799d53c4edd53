import type { JSX } from "preact";
import type { Edge } from "../api/types.ts";
import { account, hostOf, millis, rate, share, versionWord } from "../format.ts";
import { protocolWord } from "../graph/marks.tsx";
import { EdgeLink, ServiceLink, WorkloadLink } from "./links.tsx";
import { Empty } from "./page.tsx";
import { Table, type Column } from "./table.tsx";
import { Lock, Success } from "./words.tsx";

const columns: Column<Edge>[] = [
  {
    id: "from",
    title: "From",
    key: (e) => e.source_workload,
    cell: (e) => <span title={account(e.source_identity)}><WorkloadLink id={e.source_workload} /></span>,
  },
  { id: "to", title: "To", key: (e) => e.service, cell: (e) => <ServiceLink host={e.service} /> },
  { id: "rps", title: "Rate", numeric: true, key: (e) => e.rps, cell: (e) => rate(e.rps) },
  { id: "success", title: "Success", numeric: true, key: (e) => e.success, cell: (e) => <Success of={e} /> },
  { id: "p50", title: "P50", numeric: true, key: (e) => e.latency?.p50_ms, cell: (e) => millis(e.latency?.p50_ms) },
  { id: "p99", title: "P99", numeric: true, key: (e) => e.latency?.p99_ms, cell: (e) => millis(e.latency?.p99_ms) },
  { id: "open", title: "Open", numeric: true, key: (e) => e.tcp?.open, cell: (e) => (e.tcp ? e.tcp.open : "–") },
  { id: "mtls", title: "Protection", key: (e) => e.mtls, cell: (e) => <Lock of={e.mtls} /> },
  { id: "protocol", title: "Protocol", key: (e) => e.protocol, cell: (e) => protocolWord(e.protocol) || "–" },
  {
    id: "versions",
    title: "Versions",
    cell: (e) => (e.versions && e.versions.length > 1 ? e.versions.map((v) => `${versionWord(v)} ${share(v.share)}`).join(", ") : e.versions?.[0] ? versionWord(e.versions[0]) : "–"),
  },
  { id: "page", title: "Call", cell: (e) => <EdgeLink of={e}>over time<span class="hidden"> from {e.source_workload} to {hostOf(e.service)}</span></EdgeLink> },
];

interface Props {
  edges: readonly Edge[];
  caption: string;
  name?: string;
  /** without is the side that is the same in all rows. */
  without?: "from" | "to";
}

export function EdgeTable({ edges, caption, name = "sort", without }: Props): JSX.Element {
  if (edges.length === 0) return <Empty title="No calls in the last seconds" />;
  const shown = columns.filter((c) => c.id !== without && (c.id !== "open" || edges.some((e) => e.tcp)));
  return <Table caption={caption} name={name} columns={shown} rows={edges} id={(e) => e.id} initial={{ column: "rps", down: true }} />;
}
