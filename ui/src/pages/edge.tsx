import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Graph } from "../api/types.ts";
import { account, hostOf, millis, rate, success } from "../format.ts";
import { protocolWord } from "../graph/marks.tsx";
import { Golden, RangePicker } from "../parts/golden.tsx";
import { ServiceLink, WorkloadLink } from "../parts/links.tsx";
import { Answer, Card, Head, Notice } from "../parts/page.tsx";
import { Shares } from "../parts/shares.tsx";
import { Lock } from "../parts/words.tsx";
import { href } from "../route.ts";

export function EdgePage({ source, service }: { source: string; service: string }): JSX.Element {
  const graph = usePoll<Graph>("/api/v1/graph", 5000);
  const [namespace = "", workload = ""] = source.split("/", 2);
  return (
    <>
      <Head title={`${workload === "unknown" ? "outside the mesh" : workload} → ${hostOf(service)}`} crumbs={<><a href={href([])}>Graph</a> / calls</>}>
        <a class="button" href={href(["explain"], { from: source, url: `http://${hostOf(service)}/` })}>
          Explain
        </a>
        <a class="button" href={href(["live"], { namespace, workload, direction: "outbound", to: `svc/${hostOf(service).split(".")[0] ?? ""}` })}>
          Live requests
        </a>
        <RangePicker />
      </Head>
      <Answer of={graph.value}>
        {(g) => {
          const e = g.edges.find((x) => x.source_workload === source && x.service === service);
          if (!e) {
            return (
              <Notice tone="plain">
                <span>No such call in the last seconds. The charts show what was before.</span>
              </Notice>
            );
          }
          return (
            <>
              <Card title="Now">
                <dl class="facts">
                  <dt>Caller</dt>
                  <dd>
                    <WorkloadLink id={e.source_workload} /> <span class="soft">as {account(e.source_identity)}</span>
                  </dd>
                  <dt>Service</dt>
                  <dd>
                    <ServiceLink host={e.service} /> <span class="soft">{protocolWord(e.protocol)}</span>
                  </dd>
                  <dt>Protection</dt>
                  <dd>
                    <Lock of={e.mtls} />
                  </dd>
                  <dt>Traffic</dt>
                  <dd>
                    {rate(e.rps)}, success {success(e.success)}
                    {e.latency && `, P50 ${millis(e.latency.p50_ms)}, P90 ${millis(e.latency.p90_ms)}, P99 ${millis(e.latency.p99_ms)}`}
                    {e.tcp && `, ${e.tcp.open} open connections`}
                  </dd>
                  {e.route && (
                    <>
                      <dt>Route</dt>
                      <dd>{e.route}</dd>
                    </>
                  )}
                </dl>
              </Card>
              {e.versions && e.versions.length > 0 && (
                <Card title="Versions" flush>
                  <Shares of={e.versions} route={e.route} />
                </Card>
              )}
            </>
          );
        }}
      </Answer>
      <Golden of={{ source, service }} />
    </>
  );
}
