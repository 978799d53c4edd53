import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Service } from "../api/types.ts";
import { millis, rate, share } from "../format.ts";
import { ServiceLink } from "../parts/links.tsx";
import { Answer, Empty, Head } from "../parts/page.tsx";
import { ShareBar } from "../parts/shares.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { HealthTag, Lock, Success } from "../parts/words.tsx";
import { param, setParams } from "../route.ts";

const columns: Column<Service>[] = [
  { id: "name", title: "Service", key: (s) => s.name, cell: (s) => <ServiceLink host={s.host}>{s.name}</ServiceLink> },
  { id: "namespace", title: "Namespace", key: (s) => s.namespace, cell: (s) => s.namespace },
  { id: "health", title: "State", key: (s) => s.health, cell: (s) => <HealthTag of={s.health} /> },
  { id: "rps", title: "Rate", numeric: true, key: (s) => s.rps, cell: (s) => rate(s.rps) },
  { id: "success", title: "Success", numeric: true, key: (s) => s.success, cell: (s) => <Success of={s} /> },
  { id: "p50", title: "P50", numeric: true, key: (s) => s.latency?.p50_ms, cell: (s) => millis(s.latency?.p50_ms) },
  { id: "p99", title: "P99", numeric: true, key: (s) => s.latency?.p99_ms, cell: (s) => millis(s.latency?.p99_ms) },
  { id: "mtls", title: "Protection", key: (s) => s.mtls, cell: (s) => <Lock of={s.mtls} /> },
  { id: "ready", title: "Ready", numeric: true, key: (s) => s.ready - s.instances, cell: (s) => <span class={s.ready < s.instances ? "warn-ink" : undefined}>{s.external ? "external" : `${s.ready} of ${s.instances}`}</span> },
  {
    id: "versions",
    title: "Versions",
    cell: (s) => (s.versions.length > 1 ? <><ShareBar of={s.versions} /><span class="small soft nowrap">{s.versions.slice(0, 4).map((v) => `${v.version} ${share(v.share)}`).join(" · ")}</span></> : (s.versions[0]?.version ?? "–")),
  },
];

/** matches says whether a name, a namespace and more hold what was typed. */
export function matches(typed: string, ...texts: string[]): boolean {
  return texts.join(" ").toLowerCase().includes(typed.trim().toLowerCase());
}

export function ServicesPage(): JSX.Element {
  const answer = usePoll<{ services: Service[]; left_out?: number }>("/api/v1/services", 5000);
  const text = param("q");
  return (
    <>
      <Head title="Services">
        <input type="search" aria-label="Find services" placeholder="Find services" value={text} onInput={(e) => setParams({ q: e.currentTarget.value })} />
      </Head>
      <Answer of={answer.value}>
        {({ services, left_out = 0 }) => {
          const rows = services.filter((s) => matches(text, s.host, s.name, s.namespace));
          return (
            <div class="card">
              {rows.length > 0 ? (
                <Table caption="Services" columns={columns} rows={rows} id={(s) => s.host} initial={{ column: "rps", down: true }} />
              ) : (
                <Empty title={services.length > 0 ? "No service matches" : "No services yet"} />
              )}
              {left_out > 0 && <p class="body small soft">{left_out} more are left out.</p>}
            </div>
          );
        }}
      </Answer>
    </>
  );
}
