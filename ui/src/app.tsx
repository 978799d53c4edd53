import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { link } from "./api/client.ts";
import { usePoll } from "./api/poll.ts";
import type { Overview } from "./api/types.ts";
import { clock } from "./format.ts";
import { Icon, Mark } from "./parts/icons.tsx";
import { Empty, Head } from "./parts/page.tsx";
import { BreakersPage } from "./pages/breakers.tsx";
import { CertificatesPage } from "./pages/certificates.tsx";
import { ConfigPage } from "./pages/config.tsx";
import { EdgePage } from "./pages/edge.tsx";
import { ExplainPage } from "./pages/explain.tsx";
import { GraphPage } from "./pages/graph.tsx";
import { InfrastructurePage } from "./pages/infrastructure.tsx";
import { ServicePage } from "./pages/service.tsx";
import { ServicesPage } from "./pages/services.tsx";
import { TapPage } from "./pages/tap.tsx";
import { WorkloadPage } from "./pages/workload.tsx";
import { WorkloadsPage } from "./pages/workloads.tsx";
import { theme, type Theme } from "./preferences.ts";
import { href, route } from "./route.ts";

interface Entry {
  path: string;
  title: string;
  icon: Parameters<typeof Icon>[0]["name"];
  /** also are the pages that belong to it. */
  also?: string;
  page: () => JSX.Element;
  count?: (o: Overview) => { n: number; tone: "bad" | "warn" };
}

const entries: Entry[] = [
  { path: "", title: "Graph", icon: "graph", also: "edge", page: () => <GraphPage /> },
  { path: "services", title: "Services", icon: "service", also: "service", page: () => <ServicesPage /> },
  { path: "workloads", title: "Workloads", icon: "workload", also: "workload", page: () => <WorkloadsPage /> },
  { path: "live", title: "Live requests", icon: "live", page: () => <TapPage /> },
  {
    path: "config",
    title: "Configuration",
    icon: "config",
    page: () => <ConfigPage />,
    count: (o) => (o.findings.error > 0 || o.config_error ? { n: Math.max(1, o.findings.error), tone: "bad" } : { n: o.findings.warning, tone: "warn" }),
  },
  { path: "certificates", title: "Certificates", icon: "certificate", page: () => <CertificatesPage /> },
  { path: "breakers", title: "Circuit breakers", icon: "breaker", page: () => <BreakersPage />, count: (o) => ({ n: o.ejected, tone: "warn" }) },
  { path: "explain", title: "Explain", icon: "explain", page: () => <ExplainPage /> },
  { path: "infrastructure", title: "Infrastructure", icon: "machine", page: () => <InfrastructurePage />, count: (o) => ({ n: o.diagnoses, tone: "warn" }) },
];

function Page(): JSX.Element {
  const { parts } = route.value;
  const [first = "", ...rest] = parts;
  if (first === "service" && rest[0]) return <ServicePage key={rest[0]} host={rest[0]} />;
  if (first === "workload" && rest[1]) return <WorkloadPage key={rest.join("/")} id={rest.slice(0, 2).join("/")} />;
  if (first === "edge" && rest[2]) return <EdgePage key={rest.join("/")} source={rest.slice(0, 2).join("/")} service={rest[2]} />;
  const entry = entries.find((e) => e.path === first);
  if (entry) return entry.page();
  return (
    <>
      <Head title="Not found" />
      <Empty title="There is no such page">
        <a href={href([])}>The graph</a> shows everything.
      </Empty>
    </>
  );
}

export function App(): JSX.Element {
  const overview = usePoll<Overview>("/api/v1/overview", 5000).value.data;
  const here = route.value.parts[0] ?? "";
  const toMain = (): void => document.querySelector<HTMLElement>("main h1")?.focus();
  return (
    <>
      <button type="button" class="button skip" onClick={toMain}>
        Skip to the content
      </button>
      <header class="rail">
        <a class="brand" href={href([])}>
          <Mark />
          Seine
        </a>
        <nav aria-label="Pages">
          <ul>
            {entries.map((e) => {
              const count = overview && e.count?.(overview);
              return (
                <li key={e.path}>
                  <a href={href([e.path].filter(Boolean))} aria-current={here === e.path || (here !== "" && here === e.also) ? "page" : undefined}>
                    <Icon name={e.icon} />
                    {e.title}
                    {count && count.n > 0 && (
                      <span class={`tag count ${count.tone}`}>
                        {count.n}
                        <span class="hidden"> to look at</span>
                      </span>
                    )}
                  </a>
                </li>
              );
            })}
          </ul>
        </nav>
        <div class="foot">
          <ThemePicker />
          {overview && (
            <span title={`generation ${overview.generation}, trust domain ${overview.trust_domain}`}>
              {overview.version ? `Seine ${overview.version}` : "Seine"} · generation {overview.generation}
            </span>
          )}
        </div>
      </header>
      <Connection />
      {/* The page's heading takes the focus; the browser scrolls the whole. */}
      <main id="content">
        <Page />
      </main>
    </>
  );
}

function ThemePicker(): JSX.Element {
  return (
    <label class="inline">
      Theme
      <select value={theme.value} onChange={(e) => (theme.value = e.currentTarget.value as Theme)}>
        <option value="system">System</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </label>
  );
}

// Connection says once that nothing answers, and once that it does again.
function Connection(): JSX.Element {
  const back = useSignal(false);
  const state = link.value;
  const up = state.up;
  useEffect(() => {
    if (!up) {
      back.value = true;
      return;
    }
    if (!back.value) return;
    const t = setTimeout(() => (back.value = false), 4000);
    return () => clearTimeout(t);
  }, [up, back]);
  return (
    <div role="status">
      {!state.up && (
        <p class="banner bad">
          No connection to the control plane since {clock(state.since)}. What you see is from before; the mesh itself goes on. This page tries again by itself.
        </p>
      )}
      {state.up && back.value && <p class="banner">Connected again.</p>}
    </div>
  );
}
