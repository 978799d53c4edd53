import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Config, Proxy, Resource, Resources } from "../api/types.ts";
import { ago, bytes, clock, span } from "../format.ts";
import { FindingList, placeOf, thing } from "../parts/findings.tsx";
import { WorkloadLink } from "../parts/links.tsx";
import { Answer, Card, Empty, Head, Notice } from "../parts/page.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { param, setParams } from "../route.ts";
import { matches } from "./services.tsx";

export function ConfigPage(): JSX.Element {
  const config = usePoll<Config>("/api/v1/config", 5000);
  const resources = usePoll<Resources>("/api/v1/resources", 10_000);
  const proxies = usePoll<Proxy[]>("/api/v1/proxies?names=false", 5000);
  return (
    <>
      <Head title="Configuration" />
      <Answer of={config.value}>{(c) => <Taken of={c} />}</Answer>
      <Answer of={proxies.value}>{(p) => <Proxies of={p} />}</Answer>
      <Answer of={resources.value}>{(r) => <ResourceCard of={r} />}</Answer>
    </>
  );
}

function Taken({ of: c }: { of: Config }): JSX.Element {
  const findings = c.findings ?? [];
  const a = c.acknowledged;
  return (
    <>
      {c.error && (
        <Notice tone="bad">
          <strong>The last change was not taken; generation {c.generation} goes on</strong>
          <span>{c.error}</span>
        </Notice>
      )}
      <dl class="tiles">
        <div class="tile">
          <dt>Generation</dt>
          <dd>
            {c.generation} <small>taken {ago(c.loaded, Date.now())}</small>
          </dd>
        </div>
        {a && (
          <div class="tile">
            <dt>Acknowledged by</dt>
            <dd class={a.current < a.proxies ? "warn-ink" : undefined}>
              {a.current} of {a.proxies} <small>proxies</small>
            </dd>
          </div>
        )}
        <div class="tile">
          <dt>Describes</dt>
          <dd>
            {c.services} <small>services, {c.workloads} instances</small>
          </dd>
        </div>
        <div class="tile">
          <dt>Findings</dt>
          <dd class={findings.some((f) => f.severity === "error") ? "bad-ink" : findings.some((f) => f.severity === "warning") ? "warn-ink" : undefined}>{findings.length}</dd>
        </div>
      </dl>
      <Card title="Findings" flush>
        {findings.length > 0 ? <FindingList of={findings} /> : <Empty title="Nothing to find fault with">Every resource was read, and does what it says.</Empty>}
      </Card>
      {c.changes && c.changes.length > 0 && <Changes of={c.changes} />}
    </>
  );
}

function Changes({ of }: { of: NonNullable<Config["changes"]> }): JSX.Element {
  return (
    <Card title="Last changes" flush>
      <div class="scroll">
        <table>
          <caption class="hidden">Last changes</caption>
          <thead>
            <tr>
              <th scope="col">Generation</th>
              <th scope="col">Taken</th>
              <th scope="col">What</th>
              <th scope="col">Acknowledged</th>
            </tr>
          </thead>
          <tbody>
            {of.slice(0, 12).map((c) => (
              <tr key={c.generation}>
                <th scope="row">{c.generation}</th>
                <td>{clock(c.at)}</td>
                <td>{c.endpoints_only ? "endpoints only" : "resources"}</td>
                <td>
                  {c.all_acknowledged_seconds !== undefined ? (
                    `by all ${c.proxies} proxies in ${c.all_acknowledged_seconds < 1 ? `${Math.round(c.all_acknowledged_seconds * 1000)} ms` : span(c.all_acknowledged_seconds)}`
                  ) : (
                    <span class={c.acknowledged < c.proxies ? "warn-ink" : undefined}>
                      by {c.acknowledged} of {c.proxies} proxies
                    </span>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Card>
  );
}

function stateOf(p: Proxy): { rank: number; cell: JSX.Element } {
  if (p.rejected?.length) return { rank: 3, cell: <span class="tag bad">refuses {p.rejected.length}</span> };
  if (p.current === false) return { rank: 2, cell: <span class="tag warn">behind</span> };
  if (p.current === null) return { rank: 1, cell: <span class="tag">at another replica</span> };
  return { rank: 0, cell: <span class="tag">in step</span> };
}

const proxyColumns: Column<Proxy>[] = [
  { id: "id", title: "Proxy", key: (p) => p.id, cell: (p) => p.id },
  { id: "state", title: "Configuration", key: (p) => stateOf(p).rank, cell: (p) => stateOf(p).cell },
  { id: "generation", title: "Generation", numeric: true, key: (p) => p.generation, cell: (p) => (p.elsewhere ? "–" : p.generation) },
  { id: "ack", title: "Last acknowledgement", key: (p) => p.last_ack, cell: (p) => ago(p.last_ack, Date.now()) },
  { id: "workload", title: "Workload", key: (p) => p.workload, cell: (p) => (p.workload ? <WorkloadLink id={p.workload} /> : "–") },
  { id: "version", title: "Seine", key: (p) => p.version, cell: (p) => p.version || "–" },
  { id: "memory", title: "Memory", numeric: true, key: (p) => p.memory_bytes, cell: (p) => bytes(p.memory_bytes) },
  { id: "connected", title: "Connected", key: (p) => p.connected, cell: (p) => ago(p.connected, Date.now()) },
  {
    id: "note",
    title: "Refused, unreadable",
    className: "wide",
    cell: (p) => [...(p.rejected ?? []).map((r) => `${r.source ?? r.name}: ${r.message}`), p.scrape_error ? `metrics: ${p.scrape_error}` : ""].filter(Boolean).join("; ") || "–",
  },
];

function Proxies({ of }: { of: Proxy[] }): JSX.Element {
  return (
    <Card title="Proxies" aside={`${of.length} connected`} flush>
      {of.length > 0 ? (
        <Table caption="Proxies and what they have acknowledged" name="proxies" columns={proxyColumns} rows={of} id={(p) => `${p.id} ${p.replica ?? ""}`} initial={{ column: "state", down: true }} />
      ) : (
        <Empty title="No proxy is connected">Workloads that have a sidecar appear here once it has started.</Empty>
      )}
    </Card>
  );
}

const rank = { refused: 3, error: 2, warning: 1, ok: 0 };
const tones = { refused: "bad", error: "bad", warning: "warn", ok: "" };

const resourceColumns: Column<Resource>[] = [
  { id: "thing", title: "Resource", key: thing, cell: thing },
  { id: "state", title: "State", key: (r) => rank[r.state], cell: (r) => <span class={`tag ${tones[r.state]}`}>{r.state}</span> },
  { id: "where", title: "Where", key: placeOf, className: "mono small", cell: (r) => placeOf(r) || "–" },
  { id: "note", title: "Findings", className: "wide", cell: (r) => [...r.findings.map((f) => f.message), ...r.refused_by.map((x) => `refused by ${x.proxy}: ${x.message}`)].join(" ") || "–" },
];

function ResourceCard({ of: r }: { of: Resources }): JSX.Element {
  const text = param("q");
  const rows = r.resources.filter((x) => matches(text, x.kind, x.namespace ?? "", x.name, x.file ?? ""));
  return (
    <section class="card" aria-label="Resources">
      <header>
        <h2>Resources</h2>
        <span class="end">
          <input type="search" aria-label="Find resources" placeholder="Find resources" value={text} onInput={(e) => setParams({ q: e.currentTarget.value })} />
        </span>
      </header>
      {rows.length > 0 ? (
        <Table caption="Resources" name="resources" columns={resourceColumns} rows={rows} id={(x) => `${thing(x)} ${placeOf(x)}`} initial={{ column: "state", down: true }} />
      ) : (
        <Empty title={r.resources.length > 0 ? "No resource matches" : "No resources are read yet"} />
      )}
      {r.left_out > 0 && <p class="body small soft">{r.left_out} more are left out.</p>}
    </section>
  );
}
