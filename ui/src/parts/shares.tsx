import type { JSX } from "preact";
import type { Version } from "../api/types.ts";
import { millis, rate, share, versionWord } from "../format.ts";
import { WorkloadLink } from "./links.tsx";
import { Success } from "./words.tsx";

/** ShareBar shows how traffic is divided; the words stand beside it. */
export function ShareBar({ of }: { of: readonly Version[] }): JSX.Element {
  let border = 0;
  return (
    <div class="bar meter" aria-hidden="true">
      {of.slice(0, 6).map((v) => (
        <i key={v.version} style={{ width: `${(v.share ?? 0) * 100}%` }} />
      ))}
      {of.slice(0, -1).map((v) => {
        border += v.wanted ?? NaN;
        return Number.isFinite(border) && <b key={v.version} style={{ left: `${border * 100}%` }} />;
      })}
    </div>
  );
}

/** Shares is a canary: what each version gets, beside what the route says. */
export function Shares({ of, route }: { of: readonly Version[]; route?: string | undefined }): JSX.Element {
  const wanted = of.some((v) => v.wanted !== undefined);
  const pods = of.some((v) => v.instances !== undefined);
  return (
    <>
      <div class="body">
        <ShareBar of={of} />
        {route && <p class="small soft">The ticks are what {route} says.</p>}
      </div>
      <div class="scroll">
        <table>
          <caption class="hidden">Versions and their shares</caption>
          <thead>
            <tr>
              <th scope="col">Version</th>
              <th scope="col">Workload</th>
              <th scope="col" class="num">Share</th>
              {wanted && <th scope="col" class="num">Route says</th>}
              <th scope="col" class="num">Rate</th>
              <th scope="col" class="num">Success</th>
              <th scope="col" class="num">P50</th>
              <th scope="col" class="num">P99</th>
              {pods && <th scope="col" class="num">Ready</th>}
            </tr>
          </thead>
          <tbody>
            {of.map((v, i) => (
              <tr key={v.version}>
                <th scope="row">
                  <i class={`key k${Math.min(4, i + 1)}`} aria-hidden="true" />
                  <span title={v.version === "unknown" && !v.workload ? "reached no workload of the mesh: all endpoints are ejected or gone, or stand outside" : undefined}>{versionWord(v)}</span>
                </th>
                <td>{v.workload ? <WorkloadLink id={v.workload} /> : "–"}</td>
                <td class="num">{share(v.share)}</td>
                {wanted && <td class="num">{share(v.wanted)}</td>}
                <td class="num">{rate(v.rps)}</td>
                <td class="num"><Success of={v} /></td>
                <td class="num">{millis(v.latency?.p50_ms)}</td>
                <td class="num">{millis(v.latency?.p99_ms)}</td>
                {pods && <td class="num">{v.instances === undefined ? "–" : `${v.ready ?? 0} of ${v.instances}`}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
