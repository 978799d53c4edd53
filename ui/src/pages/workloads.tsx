import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Workload } from "../api/types.ts";
import { account, millis, rate } from "../format.ts";
import { ServiceLink, WorkloadLink } from "../parts/links.tsx";
import { Answer, Empty, Head } from "../parts/page.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { HealthTag, Success } from "../parts/words.tsx";
import { param, setParams } from "../route.ts";
import { matches } from "./services.tsx";

const columns: Column<Workload>[] = [
  { id: "id", title: "Workload", key: (w) => w.id, cell: (w) => <WorkloadLink id={w.id} /> },
  { id: "version", title: "Version", key: (w) => w.version, cell: (w) => w.version || "–" },
  { id: "health", title: "State", key: (w) => w.health, cell: (w) => <HealthTag of={w.health} /> },
  { id: "ready", title: "Ready", numeric: true, key: (w) => w.ready - w.instances, cell: (w) => <span class={w.ready < w.instances ? "warn-ink" : undefined}>{`${w.ready} of ${w.instances}`}</span> },
  { id: "sidecars", title: "Sidecars", numeric: true, key: (w) => w.sidecars - w.instances, cell: (w) => <span class={w.sidecars < w.instances ? "warn-ink" : undefined}>{w.sidecars}</span> },
  { id: "in", title: "Answers", numeric: true, key: (w) => w.inbound?.rps, cell: (w) => rate(w.inbound?.rps) },
  { id: "success", title: "Success", numeric: true, key: (w) => w.inbound?.success, cell: (w) => <Success of={w.inbound} /> },
  { id: "p99", title: "P99", numeric: true, key: (w) => w.inbound?.latency?.p99_ms, cell: (w) => millis(w.inbound?.latency?.p99_ms) },
  { id: "out", title: "Calls", numeric: true, key: (w) => w.outbound?.rps, cell: (w) => rate(w.outbound?.rps) },
  { id: "services", title: "Behind", cell: (w) => (w.services.length > 0 ? w.services.map((s, i) => <span key={s}>{i > 0 && ", "}<ServiceLink host={s} /></span>) : "–") },
  { id: "identity", title: "Identity", key: (w) => w.identity, cell: (w) => <span title={w.identity}>{account(w.identity)}</span> },
];

export function WorkloadsPage(): JSX.Element {
  const answer = usePoll<{ workloads: Workload[]; left_out?: number }>("/api/v1/workloads", 5000);
  const text = param("q");
  return (
    <>
      <Head title="Workloads">
        <input type="search" aria-label="Find workloads" placeholder="Find workloads" value={text} onInput={(e) => setParams({ q: e.currentTarget.value })} />
      </Head>
      <Answer of={answer.value}>
        {({ workloads, left_out = 0 }) => {
          const rows = workloads.filter((w) => matches(text, w.id, w.version, w.identity));
          return (
            <div class="card">
              {rows.length > 0 ? (
                <Table caption="Workloads" columns={columns} rows={rows} id={(w) => w.id} initial={{ column: "in", down: true }} />
              ) : (
                <Empty title={workloads.length > 0 ? "No workload matches" : "No workloads yet"} />
              )}
              {left_out > 0 && <p class="body small soft">{left_out} more are left out.</p>}
            </div>
          );
        }}
      </Answer>
    </>
  );
}
