import type { JSX } from "preact";
import { useMemo, useRef } from "preact/hooks";
import { usePoll } from "../api/poll.ts";
import type { Edge, Graph, Overview } from "../api/types.ts";
import { ago, compact, millis, rate, share, span, success } from "../format.ts";
import { Drawing } from "../graph/drawing.tsx";
import { Memory, viewOf, type View } from "../graph/model.ts";
import { Answer, Empty, Head, Notice } from "../parts/page.tsx";
import { EdgeTable } from "../parts/edges.tsx";
import { href, param, setParams } from "../route.ts";

export function GraphPage(): JSX.Element {
  const overview = usePoll<Overview>("/api/v1/overview", 5000);
  const graph = usePoll<Graph>("/api/v1/graph", 2000);
  const table = param("view") === "table";
  return (
    <>
      <Head title="Graph">
        <div class="segments" role="group" aria-label="Show as">
          <button type="button" aria-pressed={!table} onClick={() => setParams({ view: "" })}>
            Graph
          </button>
          <button type="button" aria-pressed={table} onClick={() => setParams({ view: "table" })}>
            Table
          </button>
        </div>
      </Head>
      {overview.value.data && <Summary of={overview.value.data} />}
      <Answer of={graph.value}>{(g) => <Picture of={g} at={graph.value.at} table={table} />}</Answer>
    </>
  );
}

function Summary({ of: o }: { of: Overview }): JSX.Element {
  const p = o.proxies;
  return (
    <>
      {o.config_error && (
        <Notice tone="bad">
          <strong>The last change was not taken; what was before goes on</strong>
          <span>
            {o.config_error} <a href={href(["config"])}>Configuration</a>
          </span>
        </Notice>
      )}
      <dl class="tiles">
        <Tile name="Requests" value={rate(o.rps)} />
        <Tile name="Success" value={success(o.success)} tone={o.success !== undefined && o.success < 0.99 ? "bad" : ""} />
        <Tile name="P50 / P99" value={o.latency ? pair(millis(o.latency.p50_ms), millis(o.latency.p99_ms)) : "–"} />
        <Tile name="Mutual TLS" value={share(o.mtls_share)} tone={o.mtls_share !== undefined && o.mtls_share < 1 ? "warn" : ""} />
        <Tile name="Services" value={compact(o.services)} note={`${o.healthy} of ${o.instances} instances ready`} tone={o.healthy < o.instances ? "warn" : ""} />
        <Tile name="Proxies in step" value={`${p.current} of ${p.expected}`} tone={p.current < p.expected ? "warn" : ""} note={p.refusing > 0 ? `${p.refusing} refuse something` : ""} />
        {o.certificate && <Tile name="Certificate ends" value={ends(o.certificate.not_after)} note={o.certificate.what} />}
      </dl>
    </>
  );
}

// pair says a unit once: "1.4 / 88 ms".
function pair(a: string, b: string): string {
  const [number, unit] = a.split(" ");
  return `${unit && b.endsWith(` ${unit}`) ? (number ?? a) : a} / ${b}`;
}

function ends(at: string): string {
  const left = (Date.parse(at) - Date.now()) / 1000;
  // Its larger unit says enough here; the page of certificates has the rest.
  return left > 0 ? `in ${span(left).split(" ").slice(0, 2).join(" ")}` : ago(at, Date.now());
}

function Tile({ name, value, note, tone }: { name: string; value: string; note?: string; tone?: string }): JSX.Element {
  return (
    <div class="tile">
      <dt>{name}</dt>
      <dd class={tone ? `${tone}-ink` : undefined}>
        {value}
        {note && (
          <>
            {" "}
            <small>{note}</small>
          </>
        )}
      </dd>
    </div>
  );
}

function Picture({ of: g, at, table }: { of: Graph; at: number; table: boolean }): JSX.Element {
  const memory = useRef(new Memory());
  const namespace = param("ns");
  const text = param("q");
  const problems = param("problems") === "yes";
  const edges: Edge[] = useMemo(() => memory.current.take(g, at), [g, at]);
  const view: View = useMemo(() => viewOf(g, edges, { namespace, text, problems }), [g, edges, namespace, text, problems]);
  const namespaces = useMemo(() => [...new Set(g.nodes.map((n) => n.namespace).filter(Boolean))].sort(), [g]);
  return (
    <section class="card" aria-label="Services and their calls">
      <header>
        <div class="tools">
          <input type="search" aria-label="Find services" placeholder="Find services" value={text} onInput={(e) => setParams({ q: e.currentTarget.value })} />
          {namespaces.length > 1 && (
            <select aria-label="Namespace" value={namespace} onChange={(e) => setParams({ ns: e.currentTarget.value })}>
              <option value="">All namespaces</option>
              {namespaces.map((n) => (
                <option key={n} value={n}>
                  {n}
                </option>
              ))}
            </select>
          )}
          <label class="inline">
            <input type="checkbox" checked={problems} onChange={(e) => setParams({ problems: e.currentTarget.checked ? "yes" : "" })} />
            Only what needs a look
          </label>
        </div>
        <span class="small soft end">
          {view.spots.length} of {g.nodes.length} shown{g.left_out > 0 ? `, ${g.left_out} more left out` : ""}
        </span>
      </header>
      {view.spots.length === 0 ? (
        <Nothing whole={g.nodes.length === 0} problems={problems} />
      ) : table ? (
        <EdgeTable edges={view.edges} caption="Calls between services" />
      ) : (
        <Drawing view={view} />
      )}
    </section>
  );
}

function Nothing({ whole, problems }: { whole: boolean; problems: boolean }): JSX.Element {
  if (whole) return <Empty title="No services yet">They appear once a resource describes them and a proxy is connected.</Empty>;
  if (problems) return <Empty title="Nothing needs a look">Every service answers as usual, and nothing is ejected.</Empty>;
  return <Empty title="No service matches">Change what is searched for, or choose all namespaces.</Empty>;
}
