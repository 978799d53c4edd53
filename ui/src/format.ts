// How numbers read. Pure; the same width for the same magnitude, so that columns
// stand still while they change.

const NONE = "–";

/** rate is requests per second: "0", "0.4/s", "52/s", "1.2k/s". */
export function rate(perSecond: number | undefined): string {
  if (perSecond === undefined || !Number.isFinite(perSecond)) return NONE;
  if (perSecond === 0) return "0/s";
  return `${compact(perSecond)}/s`;
}

/** compact keeps about two or three digits: 0.04, 0.4, 5.2, 52, 1.2k, 3.4M. */
export function compact(n: number): string {
  const a = Math.abs(n);
  if (Number.isInteger(n) && a < 1000) return String(n);
  if (a < 0.1) return n.toFixed(2);
  if (a < 9.95) return n.toFixed(1);
  if (a < 999.5) return n.toFixed(0);
  if (a < 9_950) return `${(n / 1e3).toFixed(1)}k`;
  if (a < 999_500) return `${(n / 1e3).toFixed(0)}k`;
  if (a < 9_950_000) return `${(n / 1e6).toFixed(1)}M`;
  return `${(n / 1e6).toFixed(0)}M`;
}

/** millis is a duration given in milliseconds: "0.31 ms", "4.2 ms", "180 ms", "2.4 s". */
export function millis(ms: number | undefined): string {
  if (ms === undefined || !Number.isFinite(ms)) return NONE;
  if (ms === 0) return "0 ms";
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${(ms / 1000).toFixed(0)} s`;
}

/**
 * success is a share of requests, 0..1. It never rounds a failure away: 100 %
 * means that all succeeded.
 */
export function success(share: number | undefined): string {
  if (share === undefined || !Number.isFinite(share)) return NONE;
  if (share >= 1) return "100 %";
  if (share > 0 && Math.abs(share * 100 - Math.round(share * 100)) < 1e-9) return `${Math.round(share * 100)} %`;
  if (share > 0.9999) return "99.99 %";
  if (share >= 0.99) return `${(Math.floor(share * 10_000) / 100).toFixed(2)} %`;
  if (share > 0) return `${(Math.floor(share * 1000) / 10).toFixed(1)} %`;
  return "0 %";
}

/** share is 0..1 as whole percents, without hiding what is little: "<1 %". */
export function share(part: number | undefined): string {
  if (part === undefined || !Number.isFinite(part)) return NONE;
  const p = part * 100;
  if (p > 0 && p < 1) return "<1 %";
  if (p > 99 && p < 100) return ">99 %";
  return `${Math.round(p)} %`;
}

/** percent is 0..1 with one digit, for what is small by nature, such as steal. */
export function percent(part: number | undefined): string {
  if (part === undefined || !Number.isFinite(part)) return NONE;
  const p = part * 100;
  return p >= 10 ? `${p.toFixed(0)} %` : `${p.toFixed(1)} %`;
}

/** bytes: "0 B", "512 B", "1.4 KB", "23 MB". */
export function bytes(n: number | undefined): string {
  if (n === undefined || !Number.isFinite(n)) return NONE;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let i = 0;
  let v = n;
  while (v >= 999.5 && i < units.length - 1) {
    v /= 1000;
    i++;
  }
  return `${i > 0 && v < 9.95 ? v.toFixed(1) : v.toFixed(0)} ${units[i] ?? ""}`;
}

/** span is a length of time in seconds in its two largest units: "3 d 4 h", "12 min", "8 s". */
export function span(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return m < 10 && s % 60 ? `${m} min ${s % 60} s` : `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 24) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  const d = Math.floor(h / 24);
  if (d < 60) return h % 24 && d < 10 ? `${d} d ${h % 24} h` : `${d} d`;
  return d < 730 ? `${Math.round(d / 30.4)} months` : `${Math.round(d / 365.25)} years`;
}

/** ago says how long before now a time is. Times in the future are "now". */
export function ago(at: string | undefined, now: number): string {
  const t = at ? Date.parse(at) : NaN;
  if (!Number.isFinite(t) || t <= 0) return NONE;
  const s = (now - t) / 1000;
  // How long ago needs no seconds beside minutes.
  return s < 1 ? "now" : `${span(s < 60 ? s : s < 3600 ? Math.floor(s / 60) * 60 : s)} ago`;
}

/** clock is the local time of day, HH:MM:SS. */
export function clock(at: string | number | undefined): string {
  if (at === undefined || at === "") return NONE;
  const d = new Date(at);
  if (Number.isNaN(d.getTime()) || d.getTime() <= 0) return NONE;
  const two = (n: number) => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

/** day is local date and time, YYYY-MM-DD HH:MM. */
export function day(at: string | undefined): string {
  const d = new Date(at ?? NaN);
  if (Number.isNaN(d.getTime()) || d.getTime() <= 0) return NONE;
  const two = (n: number) => String(n).padStart(2, "0");
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}`;
}

/** account shortens spiffe://DOMAIN/ns/NS/sa/SA to NS/SA; what is no such identity stays. */
export function account(identity: string | undefined): string {
  if (!identity) return NONE;
  const m = /^(?:spiffe:\/\/)?[^/]+\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(identity);
  return m ? `${m[1]}/${m[2]}` : identity;
}

/** hostOf shortens NAME.NS.svc.cluster.local to NAME.NS; other hosts stay. */
export function hostOf(fqdn: string): string {
  return fqdn.replace(/\.svc(\.[a-z0-9.-]+)?$/, "");
}

/**
 * versionWord names a version. What reached no workload of the mesh, as every endpoint
 * was ejected or it stands outside, has none.
 */
export function versionWord(v: { version: string; workload?: string | undefined }): string {
  return v.version === "unknown" && !v.workload ? "no workload" : v.version || "no version";
}
