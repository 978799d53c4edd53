import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Route, ServiceDetail } from "../api/types.ts";
import { hostOf, millis, rate, share, success } from "../format.ts";
import { protocolWord } from "../graph/marks.tsx";
import { BreakerTable, EjectedTable } from "../parts/breakers.tsx";
import { Diagnoses } from "../parts/diagnoses.tsx";
import { EdgeTable } from "../parts/edges.tsx";
import { FindingList } from "../parts/findings.tsx";
import { Golden, RangePicker } from "../parts/golden.tsx";
import { Answer, Card, Head } from "../parts/page.tsx";
import { Shares } from "../parts/shares.tsx";
import { HealthTag, Lock } from "../parts/words.tsx";
import { href } from "../route.ts";

export function ServicePage({ host }: { host: string }): JSX.Element {
  const answer = usePoll<ServiceDetail>(`/api/v1/services/${encodeURIComponent(host)}`, 5000);
  return (
    <>
      <Head title={hostOf(host)} crumbs={<><a href={href(["services"])}>Services</a> / {answer.value.data?.namespace ?? ""}</>}>
        <a class="button" href={href(["live"], { to: `svc/${hostOf(host).split(".")[0] ?? ""}`, toNamespace: answer.value.data?.namespace })}>
          Live requests
        </a>
        <RangePicker />
      </Head>
      <Answer of={answer.value}>
        {(s) => (
          <>
            <p class="tools small">
              <HealthTag of={s.health} />
              <Lock of={s.mtls} />
              <span class="soft">{s.external ? "outside the cluster" : `${s.ready} of ${s.instances} instances ready`}</span>
              <span class="soft">{s.ports.map((p) => `${p.number} ${protocolWord(p.protocol)}`).join(", ")}</span>
              <span class="soft mono">{s.host}</span>
            </p>
            <Diagnoses of={s.diagnoses} />
            {s.ejected.length > 0 && (
              <Card title="Ejected endpoints" flush>
                <EjectedTable of={s.ejected} />
              </Card>
            )}
            <Golden of={{ service: host }} />
            {s.versions.length > 0 && (
              <Card title="Versions" flush>
                <Shares of={s.versions} route={s.callers.find((c) => c.route)?.route} />
              </Card>
            )}
            <Card title="Callers" flush>
              <EdgeTable edges={s.callers} caption={`Callers of ${hostOf(host)}`} name="callers" without="to" />
            </Card>
            {s.routes.length > 0 && (
              <Card title="Routes, in the order of matching" flush>
                <RouteTable of={s.routes} host={s.host} />
              </Card>
            )}
            {s.breakers.length > 0 && (
              <Card title="Circuit breakers" flush>
                <BreakerTable of={s.breakers} />
              </Card>
            )}
            {s.findings.length > 0 && (
              <Card title="Findings" flush>
                <FindingList of={s.findings} />
              </Card>
            )}
          </>
        )}
      </Answer>
    </>
  );
}

function RouteTable({ of, host }: { of: readonly Route[]; host: string }): JSX.Element {
  return (
    <div class="scroll">
      <table>
        <caption class="hidden">Routes, in the order of matching</caption>
        <thead>
          <tr>
            <th scope="col">Rule</th>
            <th scope="col">Matches</th>
            <th scope="col" class="num">Rate</th>
            <th scope="col" class="num">Success</th>
            <th scope="col" class="num">P50</th>
            <th scope="col" class="num">P99</th>
            <th scope="col">Goes to</th>
            <th scope="col">Timeout, retries, faults</th>
          </tr>
        </thead>
        <tbody>
          {of.map((r, i) => (
            <tr key={`${r.id} ${i}`}>
              <th scope="row">
                {r.id || "default"}
                {r.source.file && (
                  <div class="small soft mono">
                    {r.source.file}
                    {r.source.line ? `:${r.source.line}` : ""}
                  </div>
                )}
              </th>
              <td class="wide">{r.matches.length > 0 ? r.matches.map((m) => <div key={m}>{m}</div>) : "everything"}</td>
              <td class="num">{r.requests ? rate(r.rps) : "–"}</td>
              <td class={r.success !== undefined && r.success < 0.99 ? "num bad-ink" : "num"}>{success(r.success)}</td>
              <td class="num">{millis(r.latency?.p50_ms)}</td>
              <td class="num">{millis(r.latency?.p99_ms)}</td>
              <td>
                {r.destinations.map((d) => (
                  <div key={`${d.host} ${d.subset ?? ""} ${d.port}`}>
                    {d.host === host && d.subset ? d.subset : hostOf(d.host) + (d.subset ? `, ${d.subset}` : "")} {r.destinations.length > 1 && <span class="soft">{share(d.wanted)}{d.measured !== undefined && `, gets ${share(d.measured)}`}</span>}
                  </div>
                ))}
              </td>
              <td class="wide">{[r.timeout_ms ? `timeout ${millis(r.timeout_ms)}` : "", r.retries ? `retries ${r.retries}` : "", r.fault ?? "", ...(r.mirrors ?? []).map((m) => `mirror ${m}`)].filter(Boolean).join("; ") || "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
