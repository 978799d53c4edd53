import { useSignal, type Signal } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Away, open } from "../api/client.ts";
import { readLines } from "../api/lines.ts";
import { failed, FILTERS, tapPath, type TapLine, type TapParty, type TapRequest } from "../api/tap.ts";
import { bytes, clock, hostOf, millis } from "../format.ts";
import { Icon } from "../parts/icons.tsx";
import { WorkloadLink } from "../parts/links.tsx";
import { Empty, Head, Notice } from "../parts/page.tsx";
import { param, route, setParams } from "../route.ts";

/** ROWS is how many requests are kept; older ones go. */
const ROWS = 500;
/** SHOWN is how often the table is drawn, in milliseconds. */
const SHOWN = 250;
/** AGAIN is the pause before a stream that broke is asked for again, in milliseconds. */
const AGAIN = 2000;

interface Row {
  n: number;
  request: TapRequest;
}

interface State {
  rows: Row[];
  seen: number;
  proxies: number | undefined;
  limited: number;
  dropped: number;
  error: string;
}

const NOTHING: State = { rows: [], seen: 0, proxies: undefined, limited: 0, dropped: 0, error: "" };

// useTap follows the stream while on, and shows what came in steps, so that a
// thousand requests a second cost the page no more than four drawings.
function useTap(path: string, on: boolean): Signal<State> {
  const state = useSignal<State>(NOTHING);
  useEffect(() => {
    if (!on) return;
    state.value = NOTHING;
    const stop = new AbortController();
    let now = NOTHING;
    let fresh: Row[] = [];
    const take = (line: TapLine): void => {
      if (line.type === "request") {
        fresh.push({ n: now.seen, request: line });
        now = { ...now, seen: now.seen + 1 };
        if (fresh.length > ROWS) fresh = fresh.slice(-ROWS);
      } else if (line.type === "started") now = { ...now, proxies: line.proxies, error: "" };
      else if (line.type === "lost") now = { ...now, limited: line.limited, dropped: line.dropped };
      else if (line.type === "ended") now = { ...now, error: line.error ?? "the stream has ended" };
    };
    const drawn = setInterval(() => {
      if (fresh.length > 0) {
        now = { ...now, rows: [...fresh.reverse(), ...now.rows].slice(0, ROWS) };
        fresh = [];
      }
      if (state.value !== now) state.value = now;
    }, SHOWN);
    const follow = async (): Promise<void> => {
      for (;;) {
        try {
          const answer = await open(path, { signal: stop.signal });
          if (answer.body) await readLines(answer.body, (v) => take(v as TapLine));
        } catch (e) {
          if (stop.signal.aborted) return;
          // That nobody answers is said at the top of the page; a refusal stays one.
          now = { ...now, error: e instanceof Away ? "" : (e as Error).message };
          if (!(e instanceof Away) && !(e instanceof TypeError)) return;
        }
        await new Promise((again) => setTimeout(again, AGAIN));
        if (stop.signal.aborted) return;
      }
    };
    void follow();
    return () => {
      stop.abort();
      clearInterval(drawn);
    };
  }, [path, on, state]);
  return state;
}

export function TapPage(): JSX.Element {
  const on = useSignal(false);
  const held = useSignal<State | undefined>(undefined);
  const path = tapPath(route.value.params);
  const live = useTap(path, on.value);
  const state = held.value ?? live.value;
  const shown = state.rows;
  const start = (e: SubmitEvent): void => {
    e.preventDefault();
    const f = new FormData(e.currentTarget as HTMLFormElement);
    const values: Record<string, string> = {};
    for (const name of FILTERS) {
      const v = f.get(name);
      values[name] = typeof v === "string" ? v.trim() : "";
    }
    setParams(values);
    held.value = undefined;
    on.value = true;
  };
  return (
    <>
      <Head title="Live requests">
        {on.value && (
          <>
            <button type="button" class="button" aria-pressed={held.value !== undefined} onClick={() => (held.value = held.value ? undefined : live.value)}>
              <Icon name={held.value ? "play" : "pause"} />
              {held.value ? "Go on" : "Pause"}
            </button>
            <button type="button" class="button" onClick={() => (on.value = false)}>
              Stop
            </button>
          </>
        )}
      </Head>
      <section class="card" aria-label="Filters">
        <form class="body filters" onSubmit={start}>
          <Field name="namespace" title="Namespace" hint="of the proxy that shows" />
          <Field name="workload" title="Workload" />
          <label class="field">
            Seen by
            <select name="direction" value={param("direction")}>
              <option value="">both sides</option>
              <option value="inbound">the server&rsquo;s proxy</option>
              <option value="outbound">the caller&rsquo;s proxy</option>
            </select>
          </label>
          <Field name="to" title="To" hint="svc/billing-service" />
          <Field name="toNamespace" title="in namespace" />
          <Field name="from" title="From" hint="deploy/frontend" />
          <Field name="fromNamespace" title="in namespace" />
          <Field name="method" title="Method" hint="GET, POST" />
          <Field name="path" title="Path" hint="/api or /api/*/items" />
          <Field name="status" title="Status" hint="5xx, 404" />
          <Field name="minLatency" title="Slower than" hint="100ms" />
          <button type="submit" class="button main">
            {on.value ? "Apply" : "Show requests"}
          </button>
        </form>
      </section>
      {state.error && (
        <Notice tone="bad">
          <strong>The requests cannot be shown</strong>
          <span>{state.error}</span>
        </Notice>
      )}
      <p class="small soft" role="status">
        {on.value && !state.error && status(state, held.value ? live.value.seen - held.value.seen : undefined)}
      </p>
      <div class="card">
        {shown.length > 0 ? (
          <Requests of={shown} />
        ) : (
          <Empty title={on.value ? "No request yet" : "Not started"}>
            {on.value ? "Requests that match appear here as they end." : "Choose what to see and press Show requests. Values of headers and queries stay hidden; proxies that nobody looks at do no work for it."}
          </Empty>
        )}
      </div>
    </>
  );
}

function status(s: State, held: number | undefined): string {
  return [
    held !== undefined ? `Paused; ${held} more since.` : s.proxies === undefined ? "Waiting for the control plane." : `${s.proxies} ${s.proxies === 1 ? "proxy shows" : "proxies show"} requests.`,
    s.rows.length >= ROWS ? `The newest ${ROWS} of ${s.seen} are kept.` : "",
    s.limited > 0 ? `${s.limited} more matched, over the limit of the rate.` : "",
    s.dropped > 0 ? `${s.dropped} were lost on the way.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

function Field({ name, title, hint }: { name: (typeof FILTERS)[number]; title: string; hint?: string }): JSX.Element {
  return (
    <label class="field">
      {title}
      <input type="text" name={name} placeholder={hint ?? ""} value={param(name)} autocomplete="off" spellcheck={false} />
    </label>
  );
}

function Party({ of: p }: { of: TapParty }): JSX.Element {
  if (!p.workload || p.workload === "unknown") return <span class="soft">{p.address ?? "outside the mesh"}</span>;
  return (
    <>
      <WorkloadLink id={`${p.namespace ?? ""}/${p.workload}`} />
      {p.version && <span class="soft"> {p.version}</span>}
    </>
  );
}

function Requests({ of }: { of: readonly Row[] }): JSX.Element {
  const chosen = useSignal<number | undefined>(undefined);
  // A row does not change: what was drawn is not drawn again four times a second.
  const drawn = useRef(new WeakMap<Row, { open: boolean; mark: JSX.Element }>());
  const mark = (row: Row): JSX.Element => {
    const open = chosen.value === row.n;
    const old = drawn.current.get(row);
    if (old?.open === open) return old.mark;
    const made = <Request key={row.n} of={row} open={open} toggle={() => (chosen.value = chosen.value === row.n ? undefined : row.n)} />;
    drawn.current.set(row, { open, mark: made });
    return made;
  };
  return (
    <div class="scroll">
      <table class="live">
        <caption class="hidden">Requests, the newest first</caption>
        <thead>
          <tr>
            <th scope="col">Ended</th>
            <th scope="col">From</th>
            <th scope="col">To</th>
            <th scope="col">Request</th>
            <th scope="col" class="num">Status</th>
            <th scope="col" class="num">Latency</th>
            <th scope="col" class="num">Size</th>
            <th scope="col">
              <span class="hidden">Details</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {of.map(mark)}
        </tbody>
      </table>
    </div>
  );
}

function Request({ of: { n, request: r }, open: shown, toggle }: { of: Row; open: boolean; toggle: () => void }): JSX.Element {
  const bad = failed(r);
  return (
    <>
      <tr>
        <th scope="row" class="nowrap mono">
          {clock(r.time)}
        </th>
        <td>
          <Party of={r.source} />
        </td>
        <td>
          <Party of={r.destination} />
        </td>
        <td class="path">
          {r.method} {r.path}
        </td>
        <td class={`num ${bad ? "bad-ink" : ""}`}>
          {r.status || "no answer"}
          {r.grpcStatus !== undefined && ` / ${r.grpcStatus}`}
          {r.flags && <span class="small"> {r.flags}</span>}
        </td>
        <td class="num">{millis(r.latencyMs)}</td>
        <td class="num">{bytes(r.responseBytes)}</td>
        <td>
          <button type="button" class="button more" aria-expanded={shown} aria-controls={shown ? `request-${n}` : undefined} onClick={toggle}>
            {shown ? "Less" : "More"}
            <span class="hidden"> about {r.method} {r.path}</span>
          </button>
        </td>
      </tr>
      {shown && (
        <tr id={`request-${n}`}>
          <td colSpan={8}>
            <dl class="facts small">
              {facts(r).map(([name, value]) => (
                <div key={name} class="pair">
                  <dt>{name}</dt>
                  <dd>{value}</dd>
                </div>
              ))}
            </dl>
          </td>
        </tr>
      )}
    </>
  );
}

function facts(r: TapRequest): [string, string][] {
  const all: [string, string | undefined][] = [
    ["Why", [r.reason, r.cause].filter(Boolean).join(": ")],
    ["Shown by", `${r.proxy}, ${r.direction === "inbound" ? "before the server" : "beside the caller"}`],
    ["Service", r.service && hostOf(r.service)],
    ["Authority", r.authority],
    ["Protocol", r.grpc ? `gRPC over ${r.protocol ?? "HTTP/2"}` : r.protocol],
    ["Protection", r.security?.replaceAll("_", " ")],
    ["Caller", r.source.identity],
    ["Answered by", [r.destination.pod, r.destination.address].filter(Boolean).join(" ")],
    ["Rule", r.rule],
    ["Tries", r.attempts !== undefined && r.attempts > 1 ? String(r.attempts) : undefined],
    ["Latency", r.upstreamMs === undefined ? undefined : `${millis(r.latencyMs)}, of it ${millis(r.upstreamMs)} upstream`],
    ["Request id", r.requestId],
    ["Trace", r.traceId],
    ["Headers", r.headers?.map((h) => `${h.name}: ${h.redacted ? "(hidden)" : (h.value ?? "")}`).join("; ")],
  ];
  return all.filter((f): f is [string, string] => Boolean(f[1]));
}
