// The words for states, the same on every page.

import type { JSX } from "preact";
import type { Health, Mtls, Traffic } from "../api/types.ts";
import { success } from "../format.ts";
import { Icon } from "./icons.tsx";

const healths: Record<Health, { text: string; tone: string }> = {
  ok: { text: "healthy", tone: "" },
  idle: { text: "idle", tone: "" },
  failing: { text: "failing", tone: "bad" },
  slow: { text: "slower than usual", tone: "warn" },
  ejected: { text: "endpoint ejected", tone: "warn" },
  down: { text: "none ready", tone: "bad" },
};

/** healthWord is the state in words; a state of a newer control plane is itself. */
export function healthWord(h: string): string {
  return (healths as Record<string, { text: string } | undefined>)[h]?.text ?? h;
}

export function HealthTag({ of }: { of: Health }): JSX.Element {
  const tone = (healths as Record<string, { tone: string } | undefined>)[of]?.tone ?? "";
  return <span class={`tag ${tone}`}>{healthWord(of)}</span>;
}

const mtlsWords: Record<Mtls, string> = {
  yes: "mutual TLS",
  no: "plaintext",
  mixed: "partly plaintext",
  unknown: "not known",
};

export function mtlsWord(m: Mtls | undefined): string {
  return m ? mtlsWords[m] : mtlsWords.unknown;
}

/** Lock says how a call is protected. Only what is not protected has a colour. */
export function Lock({ of }: { of: Mtls | undefined }): JSX.Element {
  const open = of === "no" || of === "mixed";
  return (
    <span class={`lock ${open ? "warn-ink" : of === "yes" ? "" : "soft"}`}>
      {(open || of === "yes") && <Icon name={open ? "unlock" : "lock"} />}
      {mtlsWord(of)}
    </span>
  );
}

/** goal is the share of success below which a number stands out. */
const FAILING = 0.99;

export function Success({ of }: { of: Traffic | undefined }): JSX.Element {
  const s = of?.success;
  return <span class={s !== undefined && s < FAILING ? "bad-ink" : undefined}>{success(s)}</span>;
}
