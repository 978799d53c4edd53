import type { JSX } from "preact";
import { day, span } from "../format.ts";

/** left is what remains of a lifetime: seconds, and the share of the whole if its start is known. */
export function left(notAfter: string, notBefore: string | undefined, now: number): { seconds: number; share: number | undefined } {
  const end = Date.parse(notAfter);
  const start = notBefore ? Date.parse(notBefore) : NaN;
  const seconds = (end - now) / 1000;
  return { seconds, share: Number.isFinite(start) && end > start ? Math.max(0, Math.min(1, (end - now) / (end - start))) : undefined };
}

interface Props {
  at: string | undefined;
  from?: string | undefined;
  /** soon is the remaining time, in seconds, from which on it stands out; else a sixth of the lifetime. */
  soon?: number;
}

/** Until says when something ends, and when that is soon. */
export function Until({ at, from, soon }: Props): JSX.Element {
  if (!at) return <>–</>;
  const l = left(at, from, Date.now());
  const near = soon === undefined ? (l.share ?? 1) < 1 / 6 : l.seconds < soon;
  const tone = l.seconds <= 0 ? "bad-ink" : near ? "warn-ink" : undefined;
  return (
    <time dateTime={at} title={day(at)} class={tone}>
      {l.seconds <= 0 ? `ended ${span(-l.seconds)} ago` : `in ${span(l.seconds)}`}
    </time>
  );
}

/** Life is a bar of a lifetime: what has passed, and what remains. */
export function Life({ from, at }: { from: string | undefined; at: string }): JSX.Element {
  const l = left(at, from, Date.now());
  return (
    <div class="bar" aria-hidden="true">
      {l.share !== undefined && (
        <>
          <i class="spent" style={{ width: `${(1 - l.share) * 100}%` }} />
          <i class="rest" style={{ width: `${l.share * 100}%` }} />
        </>
      )}
    </div>
  );
}
