import type { JSX } from "preact";
import type { Diagnosis } from "../api/types.ts";
import { clock, hostOf, millis, percent } from "../format.ts";
import { ServiceLink } from "./links.tsx";
import { Notice } from "./page.tsx";

const causes: Record<Diagnosis["cause"], string> = {
  application: "The application's code",
  version: "One version of the application",
  dependency: "Something that it calls",
  network: "The network",
  node: "The machine underneath",
};

/** Diagnoses says what is slower than usual, and what makes it so. */
export function Diagnoses({ of }: { of: readonly Diagnosis[] }): JSX.Element {
  return (
    <>
      {of.map((d) => (
        <Notice key={`${d.service} ${d.version} ${d.caller ?? ""}`} tone="warn">
          <strong>
            {causes[d.cause]}: {hostOf(d.culprit)}
          </strong>
          <span>{d.explanation}</span>
          <span class="soft small">
            <ServiceLink host={d.service} /> {d.version} since {clock(d.since)} · P50 {millis(d.before.p50_ms)} → {millis(d.after.p50_ms)} · P99 {millis(d.before.p99_ms)} → {millis(d.after.p99_ms)} · {percent(d.slower)} of the requests
            are slower{d.signal ? ` · signal ${d.signal}` : ""}
          </span>
          {d.evidence.length > 0 && (
            <ul class="small" aria-label="Evidence">
              {d.evidence.map((e) => (
                <li key={e}>{e}</li>
              ))}
            </ul>
          )}
        </Notice>
      ))}
    </>
  );
}
