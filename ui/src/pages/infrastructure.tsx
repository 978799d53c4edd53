import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Infrastructure, Signal } from "../api/types.ts";
import { percent } from "../format.ts";
import { Diagnoses } from "../parts/diagnoses.tsx";
import { Answer, Card, Empty, Head, Notice } from "../parts/page.tsx";
import { Table, type Column } from "../parts/table.tsx";

type Row = { id: string; note: string; signals: Signal[] };

// In the order of how sure they are, worst words first.
const titles: Record<string, string> = {
  "cpu-steal": "Steal",
  "io-wait": "I/O wait",
  "cpu-pressure": "CPU pressure",
  "io-pressure": "I/O pressure",
  "memory-pressure": "Memory pressure",
  "cpu-limit": "Throttled",
  "scheduling-delay": "Late timers",
  "run-queue": "Run queue",
  "sidecar-gc": "GC of the sidecar",
};

export function InfrastructurePage(): JSX.Element {
  const answer = usePoll<Infrastructure>("/api/v1/infrastructure", 5000);
  return (
    <>
      <Head title="Infrastructure" />
      <Answer of={answer.value}>
        {(i) => (
          <>
            {i.diagnoses.length > 0 ? (
              <Diagnoses of={i.diagnoses} />
            ) : (
              <Quiet of={i.learning} />
            )}
            <Card title="Machines" aside="share of the time, in the last window" flush>
              {i.machines.length > 0 ? (
                <Signals caption="Machines" rows={i.machines.map((m) => ({ id: m.node || m.id.slice(0, 8), note: `${m.proxies.length} ${m.proxies.length === 1 ? "proxy" : "proxies"}`, signals: m.signals }))} />
              ) : (
                <Empty title="No machine is known yet">Proxies report the machine that they run on with their metrics.</Empty>
              )}
            </Card>
            {i.proxies.length > 0 && (
              <Card title="Workloads" aside="as their sidecars feel it" flush>
                <Signals caption="Workloads" rows={i.proxies.map((p) => ({ id: p.id, note: "", signals: p.signals }))} />
              </Card>
            )}
            {i.left_out > 0 && <p class="small soft">{i.left_out} more are left out.</p>}
          </>
        )}
      </Answer>
    </>
  );
}

/** Quiet says that nothing is unusual, or that it is not known yet. */
function Quiet({ of: l }: { of: Infrastructure["learning"] }): JSX.Element {
  if (l?.judged === 0) {
    return (
      <Notice tone="plain">
        <strong>{l.waiting > 0 ? `Still learning what is usual: ${l.windows} of ${l.needed} windows of ten seconds` : "No requests are seen: there is nothing to judge"}</strong>
        <span class="soft">Each service is compared with its own last ten minutes.</span>
      </Notice>
    );
  }
  return (
    <Notice tone="plain">
      <strong>Nothing is slower than usual</strong>
      <span class="soft">
        Each service is compared with its own last ten minutes; what is usual is known after three.
        {l && l.waiting > 0 && ` Of ${l.waiting} of ${l.waiting + l.judged} versions and calls it is still learnt.`}
      </span>
    </Notice>
  );
}

function Signals({ caption, rows }: { caption: string; rows: Row[] }): JSX.Element {
  const names = [...new Set(rows.flatMap((r) => r.signals.map((s) => s.name)))].sort((a, b) => place(a) - place(b));
  const columns: Column<Row>[] = [
    { id: "id", title: caption === "Machines" ? "Machine" : "Proxy", key: (r) => r.id, cell: (r) => <>{r.id} {r.note && <span class="soft small">{r.note}</span>}</> },
    ...names.map(
      (n): Column<Row> => ({
        id: n,
        title: titles[n] ?? n,
        numeric: true,
        key: (r) => find(r, n)?.value,
        cell: (r) => <Value of={find(r, n)} />,
      }),
    ),
    {
      id: "words",
      title: "What stands out",
      key: (r) => r.signals.filter((s) => s.raised).length,
      className: "wide",
      cell: (r) => r.signals.filter((s) => s.raised).map((s) => <div key={s.name}>{s.text}</div>),
    },
  ];
  return <Table caption={caption} name={caption.toLowerCase()} columns={columns} rows={rows} id={(r) => r.id} initial={{ column: "words", down: true }} />;
}

const order = Object.keys(titles);

function place(name: string): number {
  const i = order.indexOf(name);
  return i < 0 ? order.length : i;
}

function find(r: Row, name: string): Signal | undefined {
  return r.signals.find((s) => s.name === name);
}

function Value({ of: s }: { of: Signal | undefined }): JSX.Element {
  if (!s) return <span class="soft">–</span>;
  return (
    <span class={s.raised ? "warn-ink" : undefined} title={s.text}>
      {percent(s.value)}
      {s.usual !== undefined && s.raised && <span class="soft small"> usually {percent(s.usual)}</span>}
    </span>
  );
}
