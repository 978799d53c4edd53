import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Certificates } from "../api/types.ts";
import { account, day } from "../format.ts";
import { Life, Until } from "../parts/lifetime.tsx";
import { Answer, Card, Empty, Head, Notice } from "../parts/page.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { param, setParams } from "../route.ts";
import { matches } from "./services.tsx";

type Leaf = Certificates["leaves"][number];
type Root = Certificates["roots"][number];

const MONTH = 30 * 86_400;

const leaves: Column<Leaf>[] = [
  { id: "proxy", title: "Proxy", key: (l) => l.proxy, cell: (l) => l.proxy },
  { id: "identity", title: "Identity", key: (l) => l.identity, cell: (l) => <span title={l.identity}>{account(l.identity)}</span> },
  { id: "life", title: "Remaining", cell: (l) => <Life from={l.not_before} at={l.not_after} /> },
  { id: "ends", title: "Ends", key: (l) => l.not_after, cell: (l) => <Until at={l.not_after} from={l.not_before} /> },
  { id: "at", title: "At", key: (l) => l.not_after, cell: (l) => <span class="nowrap">{day(l.not_after)}</span> },
  { id: "root", title: "Root", key: (l) => l.root, cell: (l) => <span class="mono small">{l.root ? l.root.slice(0, 12) : "–"}</span> },
];

const roots: Column<Root>[] = [
  { id: "subject", title: "Root", key: (r) => r.subject, cell: (r) => r.subject },
  { id: "id", title: "Id", key: (r) => r.id, cell: (r) => <span class="mono small">{r.id.slice(0, 12)}</span> },
  { id: "signs", title: "Role", key: (r) => Number(r.signs), cell: (r) => (r.signs ? <span class="tag accent">signs</span> : <span class="tag">trusted only</span>) },
  { id: "algorithm", title: "Key", key: (r) => r.algorithm, cell: (r) => r.algorithm },
  { id: "life", title: "Remaining", cell: (r) => <Life from={r.not_before} at={r.not_after} /> },
  { id: "ends", title: "Ends", key: (r) => r.not_after, cell: (r) => <><Until at={r.not_after} soon={MONTH} /> <span class="soft small nowrap">{day(r.not_after)}</span></> },
];

export function CertificatesPage(): JSX.Element {
  const answer = usePoll<Certificates>("/api/v1/certificates", 10_000);
  const text = param("q");
  return (
    <>
      <Head title="Certificates" />
      <Answer of={answer.value}>
        {(c) => {
          const rows = c.leaves.filter((l) => matches(text, l.proxy, l.identity));
          return (
            <>
              {c.findings.map((f) => (
                <Notice key={f} tone="warn">
                  <span>{f}</span>
                </Notice>
              ))}
              {c.rotation?.step && (
                <Notice tone="warn">
                  <strong>The root is being replaced: {c.rotation.step}</strong>
                  {c.rotation.waiting && <span>{c.rotation.waiting}</span>}
                </Notice>
              )}
              <Card title="Roots" aside={`trust domain ${c.trust_domain}${c.source ? `, kept in ${c.source}` : ""}`} flush>
                <Table caption="Roots" name="roots" columns={roots} rows={c.roots} id={(r) => r.id} initial={{ column: "signs", down: true }} />
              </Card>
              {(c.intermediates.length > 0 || c.control) && (
                <Card title="Control plane">
                  <dl class="facts">
                    {c.intermediates.map((i) => (
                      <div key={i.subject + (i.replica ?? "")} class="pair">
                        <dt>Intermediate{i.replica ? ` of ${i.replica}` : ""}</dt>
                        <dd>
                          {i.subject}, ends <Until at={i.not_after} from={i.not_before} />
                        </dd>
                      </div>
                    ))}
                    {c.control && (
                      <div class="pair">
                        <dt>Its own certificate</dt>
                        <dd>
                          ends <Until at={c.control.not_after} soon={3600} />
                        </dd>
                      </div>
                    )}
                  </dl>
                </Card>
              )}
              <section class="card" aria-label="Workloads">
                <header>
                  <h2>Workloads</h2>
                  <span class="end">
                    <input type="search" aria-label="Find certificates" placeholder="Find certificates" value={text} onInput={(e) => setParams({ q: e.currentTarget.value })} />
                  </span>
                </header>
                {rows.length > 0 ? (
                  <Table caption="Certificates of workloads" columns={leaves} rows={rows} id={(l) => `${l.proxy} ${l.serial ?? ""}`} initial={{ column: "ends", down: false }} />
                ) : (
                  <Empty title={c.leaves.length > 0 ? "No certificate matches" : "No certificate is known yet"}>{c.leaves.length === 0 && "Each proxy says when its certificate ends; they are asked every few seconds."}</Empty>
                )}
                {c.left_out > 0 && <p class="body small soft">{c.left_out} that end later are left out.</p>}
              </section>
            </>
          );
        }}
      </Answer>
    </>
  );
}
