import { useSignal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";
import { useEffect } from "preact/hooks";
import { ask } from "../api/client.ts";
import { usePoll, type Polled } from "../api/poll.ts";
import type { Explained, Question, Service, Workload } from "../api/types.ts";
import { hostOf } from "../format.ts";
import { placeOf, thing } from "../parts/findings.tsx";
import { Answer, Card, Empty, Head } from "../parts/page.tsx";
import { param, setParams } from "../route.ts";

/** questionOf reads a question out of the address; undefined if nothing is asked. */
export function questionOf(p: URLSearchParams): Question | undefined {
  const url = p.get("url") ?? "";
  const from = p.get("from") ?? "";
  if (!url || !from) return undefined;
  const headers = (p.get("headers") ?? "").split("\n").map((h) => h.trim()).filter(Boolean);
  return { from, url, method: p.get("method") ?? "GET", ...(headers.length > 0 ? { headers } : {}) };
}

const outcomes: Record<string, { text: string; tone: string }> = {
  forward: { text: "It is forwarded", tone: "accent" },
  redirect: { text: "It is redirected", tone: "accent" },
  respond: { text: "The proxy answers by itself", tone: "accent" },
  reject: { text: "It is refused", tone: "bad" },
  passthrough: { text: "It leaves the mesh as it is", tone: "warn" },
  blackhole: { text: "It goes nowhere", tone: "bad" },
  unsupported: { text: "This version does not do that", tone: "warn" },
};

export function ExplainPage(): JSX.Element {
  const workloads = usePoll<{ workloads: Workload[] }>("/api/v1/workloads", 30_000).value.data?.workloads ?? [];
  const services = usePoll<{ services: Service[] }>("/api/v1/services", 30_000).value.data?.services ?? [];
  const asked = new URLSearchParams({ from: param("from"), url: param("url"), method: param("method"), headers: param("headers") });
  const key = asked.toString();
  const state = useSignal<Polled<Explained>>({ data: undefined, error: undefined, at: 0 });
  const waiting = useSignal(false);
  useEffect(() => {
    const question = questionOf(new URLSearchParams(key));
    if (!question) return;
    const stop = new AbortController();
    waiting.value = true;
    ask<Explained>("/api/v1/explain", stop.signal, { ...question, method: question.method || "GET" })
      .then((data) => (state.value = { data, error: undefined, at: Date.now() }))
      .catch((e: unknown) => {
        if (!stop.signal.aborted) state.value = { data: undefined, error: e as Error, at: 0 };
      })
      .finally(() => {
        if (!stop.signal.aborted) waiting.value = false;
      });
    return () => stop.abort();
  }, [key, state, waiting]);

  const submit = (e: SubmitEvent): void => {
    e.preventDefault();
    const f = new FormData(e.currentTarget as HTMLFormElement);
    const text = (name: string): string => {
      const v = f.get(name);
      return typeof v === "string" ? v.trim() : "";
    };
    setParams({ from: text("from"), method: text("method"), url: text("url"), headers: text("headers") });
  };
  return (
    <>
      <Head title="Explain" />
      <p class="soft">What would happen to a request, step by step, decided by the very functions that the proxies run. Nothing is sent.</p>
      <Card title="The request">
        <form class="ask" onSubmit={submit}>
          <label class="field">
            From
            <input type="text" name="from" required list="explain-from" placeholder="namespace/workload" value={param("from")} />
          </label>
          <label class="field method">
            Method
            <select name="method" value={param("method", "GET")}>
              {["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].map((m) => (
                <option key={m}>{m}</option>
              ))}
            </select>
          </label>
          <label class="field url">
            URL
            <input type="text" name="url" required list="explain-url" placeholder="http://billing-service:8080/invoice" value={param("url")} />
          </label>
          <label class="field headers">
            Headers, one on each line
            <textarea name="headers" rows={2} placeholder="x-user: beta" value={param("headers")} />
          </label>
          <datalist id="explain-from">
            {workloads.map((w) => (
              <option key={w.id} value={w.id} />
            ))}
          </datalist>
          <datalist id="explain-url">
            {services.flatMap((s) => s.ports.map((p) => <option key={`${s.host}:${p.number}`} value={`${scheme(p.protocol)}://${hostOf(s.host)}:${p.number}${p.protocol === "tcp" ? "" : "/"}`} />))}
          </datalist>
          <button type="submit" class="button main">
            Explain
          </button>
        </form>
      </Card>
      <div aria-live="polite" aria-busy={waiting.value}>
        {questionOf(asked) ? (
          <Answer of={state.value}>{(a) => <Result of={a} />}</Answer>
        ) : (
          <Empty title="Nothing asked yet">Say who calls, and what. The answer can be shared: it is in the address.</Empty>
        )}
      </div>
    </>
  );
}

function scheme(protocol: string): string {
  return protocol === "grpc" || protocol === "tcp" ? protocol : protocol === "https" || protocol === "tls" ? "https" : "http";
}

function Result({ of: a }: { of: Explained }): JSX.Element {
  const o = outcomes[a.outcome] ?? { text: a.outcome, tone: "" };
  return (
    <div class="grid answer">
      <Card title="The answer">
        <p>
          <span class={`tag ${o.tone}`}>{o.text}</span>
        </p>
        <dl class="facts">
          <Fact name="Why not">{a.reason?.replaceAll("_", " ")}</Fact>
          <Fact name="Service">{a.service && `${hostOf(a.service)}${a.port ? `:${a.port}` : ""}`}</Fact>
          <Fact name="Route">
            {a.route && (
              <>
                {thing(a.route)}
                {a.route.rule !== undefined && `, rule ${a.route.rule}`} <span class="mono small soft">{placeOf(a.route)}</span>
              </>
            )}
          </Fact>
          <Fact name="Goes to">
            {a.destinations?.map((d) => (
              <div key={`${d.host} ${d.subset ?? ""} ${d.port}`}>
                {hostOf(d.host)}:{d.port}
                {d.subset ? `, ${d.subset}` : ""} {(a.destinations?.length ?? 0) > 1 && <span class="soft">weight {d.weight}</span>}
              </div>
            ))}
          </Fact>
          <Fact name="Status">{a.status !== undefined && `${a.status}${a.flag ? `, flag ${a.flag}` : ""}`}</Fact>
          <Fact name="Location">{a.location}</Fact>
          <Fact name="Sent as">{a.request && <span class="mono">{`${a.request.authority} ${a.request.path}`}</span>}</Fact>
          <Fact name="Timeout">{a.timeout}</Fact>
          <Fact name="Retries">{a.retries && a.retries.attempts > 0 && `${a.retries.attempts}${a.retries.retryOn ? ` on ${a.retries.retryOn}` : ""}`}</Fact>
          <Fact name="Mutual TLS">{a.mtls}</Fact>
          <Fact name="Endpoints">
            {a.endpoints?.slice(0, 12).map((e) => (
              <div key={e.address} class={e.healthy ? undefined : "warn-ink"}>
                {e.workload ?? e.address} <span class="soft">{[e.subset, e.tls === "none" ? "plaintext" : `${e.tls} TLS`, e.healthy ? "" : "not ready"].filter(Boolean).join(", ")}</span>
              </div>
            ))}
          </Fact>
          <Fact name="Not done">{a.unsupported && a.unsupported.length > 0 && a.unsupported.join("; ")}</Fact>
        </dl>
      </Card>
      <Card title="Step by step">
        <ol class="steps">
          {a.steps.map((s, i) => (
            <li key={`${i} ${s}`}>
              <span>{s}</span>
            </li>
          ))}
        </ol>
      </Card>
    </div>
  );
}

function Fact({ name, children }: { name: string; children?: ComponentChildren }): JSX.Element | null {
  if (children === undefined || children === null || children === "" || children === false || (Array.isArray(children) && children.every((c) => !c))) return null;
  return (
    <div class="pair">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
