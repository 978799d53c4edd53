import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Authz, Instance, WorkloadDetail } from "../api/types.ts";
import { account, bytes, compact } from "../format.ts";
import { Diagnoses } from "../parts/diagnoses.tsx";
import { EdgeTable } from "../parts/edges.tsx";
import { Golden, RangePicker } from "../parts/golden.tsx";
import { ServiceLink } from "../parts/links.tsx";
import { Answer, Card, Head } from "../parts/page.tsx";
import { Until } from "../parts/lifetime.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { HealthTag } from "../parts/words.tsx";
import { href, param, setParams } from "../route.ts";

export function WorkloadPage({ id }: { id: string }): JSX.Element {
  const [namespace = "", name = ""] = id.split("/", 2);
  const answer = usePoll<WorkloadDetail>(`/api/v1/workloads/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`, 5000);
  // What only calls has nothing to show for its answers.
  const calls = answer.value.data && !answer.value.data.services.length;
  const direction = param("direction", calls ? "out" : "in");
  return (
    <>
      <Head title={name} crumbs={<><a href={href(["workloads"])}>Workloads</a> / {namespace}</>}>
        <div class="segments" role="group" aria-label="Traffic">
          <button type="button" aria-pressed={direction === "in"} onClick={() => setParams({ direction: "in" })}>
            What it answers
          </button>
          <button type="button" aria-pressed={direction === "out"} onClick={() => setParams({ direction: "out" })}>
            What it calls
          </button>
        </div>
        <a class="button" href={href(["live"], { namespace, workload: name })}>
          Live requests
        </a>
        <RangePicker />
      </Head>
      <Answer of={answer.value}>
        {(w) => (
          <>
            <p class="tools small">
              <HealthTag of={w.health} />
              {w.version && <span class="tag">{w.version}</span>}
              <span class="soft">
                {w.ready} of {w.instances} instances ready, {w.sidecars} with a sidecar
              </span>
              {w.services.length > 0 && (
                <span class="soft">
                  behind{" "}
                  {w.services.map((s, i) => (
                    <span key={s}>
                      {i > 0 && ", "}
                      <ServiceLink host={s} />
                    </span>
                  ))}
                </span>
              )}
              <span class="soft mono">{w.identity}</span>
            </p>
            <Diagnoses of={w.diagnoses} />
            <Golden of={{ workload: id, direction }} />
            <Card title="Instances" flush>
              <Table caption="Instances" name="instances" columns={instances} rows={w.instance_list} id={(i) => i.id} initial={{ column: "id", down: false }} />
            </Card>
            <Card title="What it calls" flush>
              <EdgeTable edges={w.calls} caption={`Calls of ${name}`} name="calls" without="from" />
            </Card>
            <Card title="Who calls it" flush>
              <EdgeTable edges={w.callers} caption={`Callers of ${name}`} name="callers" />
            </Card>
            {w.authz && <Access of={w.authz} />}
          </>
        )}
      </Answer>
    </>
  );
}

const instances: Column<Instance>[] = [
  { id: "id", title: "Instance", key: (i) => i.id, cell: (i) => i.id },
  { id: "ready", title: "Ready", key: (i) => Number(i.ready), cell: (i) => (i.ready ? "yes" : <span class="warn-ink">no</span>) },
  { id: "address", title: "Address", key: (i) => i.address, cell: (i) => <span class="mono">{i.address}</span> },
  { id: "node", title: "Node", key: (i) => i.node, cell: (i) => i.node || "–" },
  {
    id: "proxy",
    title: "Proxy",
    cell: (i) =>
      !i.sidecar ? (
        <span class="warn-ink">none: outside the mesh</span>
      ) : !i.proxy ? (
        <span class="warn-ink">not connected</span>
      ) : i.proxy.current === false ? (
        <span class="warn-ink">behind, at generation {i.proxy.generation}</span>
      ) : (
        "in step"
      ),
  },
  { id: "version", title: "Seine", key: (i) => i.proxy?.version, cell: (i) => i.proxy?.version ?? "–" },
  { id: "memory", title: "Memory", numeric: true, key: (i) => i.proxy?.memory_bytes, cell: (i) => bytes(i.proxy?.memory_bytes) },
  { id: "cpu", title: "CPU", numeric: true, key: (i) => i.proxy?.cpu_cores, cell: (i) => (i.proxy?.cpu_cores === undefined ? "–" : `${compact(i.proxy.cpu_cores * 1000)}m`) },
  { id: "certificate", title: "Certificate ends", key: (i) => i.proxy?.certificate_not_after, cell: (i) => <Until at={i.proxy?.certificate_not_after} /> },
];

function Access({ of: a }: { of: Authz }): JSX.Element {
  return (
    <Card title="Who may call it">
      <dl class="facts">
        {a.ports.map((p) => (
          <div key={p.port} class="pair">
            <dt>Port {p.port}</dt>
            <dd>
              {p.mode} <span class="soft">by {p.source || "default"}</span>
            </dd>
          </div>
        ))}
        {a.default && (
          <div class="pair">
            <dt>Other ports</dt>
            <dd>
              {a.default.mode} <span class="soft">by {a.default.source || "default"}</span>
            </dd>
          </div>
        )}
        {a.authorization && (
          <div class="pair">
            <dt>Policies</dt>
            <dd>{a.authorization.text}</dd>
          </div>
        )}
        <div class="pair">
          <dt>Seen lately</dt>
          <dd>{a.callers.filter((c) => c.seen).map((c) => account(c.identity)).join(", ") || "nobody"}</dd>
        </div>
      </dl>
    </Card>
  );
}
