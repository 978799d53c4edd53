import type { JSX } from "preact";
import type { Finding } from "../api/types.ts";
import { Table, type Column } from "./table.tsx";

const weight = { error: 2, warning: 1, info: 0 };
const tones = { error: "bad", warning: "warn", info: "" };

export function thing(f: { kind?: string; namespace?: string; name?: string }): string {
  const name = [f.namespace, f.name].filter(Boolean).join("/");
  return [f.kind, name].filter(Boolean).join(" ") || "–";
}

export function placeOf(f: { file?: string; line?: number }): string {
  return f.file ? `${f.file}${f.line ? `:${f.line}` : ""}` : "";
}

const columns: Column<Finding>[] = [
  {
    id: "severity",
    title: "Severity",
    key: (f) => weight[f.severity],
    cell: (f) => (
      <span class={`tag ${tones[f.severity]}`}>
        {f.severity}
        {f.refused ? ", not taken" : ""}
      </span>
    ),
  },
  {
    id: "what",
    title: "Resource",
    key: thing,
    cell: (f) => (
      <>
        {thing(f)}
        {f.path && <div class="small soft mono">{f.path}</div>}
      </>
    ),
  },
  { id: "message", title: "What, and what to do", className: "wide", cell: (f) => f.message },
  { id: "where", title: "Where", key: placeOf, className: "mono small", cell: (f) => placeOf(f) || "–" },
  { id: "code", title: "Code", key: (f) => f.code, cell: (f) => <span class="mono small">{[f.code, f.istio].filter(Boolean).join(" ")}</span> },
];

export function FindingList({ of }: { of: readonly Finding[] }): JSX.Element {
  return <Table caption="Findings" name="findings" columns={columns} rows={of} id={(f) => `${f.code} ${thing(f)} ${f.path ?? ""} ${f.message}`} initial={{ column: "severity", down: true }} />;
}
