// Asking the control plane. One place knows whether it can be reached.

import { signal } from "@preact/signals";
import { authorization } from "./token.ts";

/** Refusal is an answer that says no, with the server's own sentence. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Away means that nothing answered. */
export class Away extends Error {}

/** link says whether the control plane answers, and if not, since when. */
export const link = signal<{ up: true } | { up: false; since: number }>({ up: true });

function lost(): void {
  if (link.value.up) link.value = { up: false, since: Date.now() };
}

function found(): void {
  if (!link.value.up) link.value = { up: true };
}

// A relay that cannot reach seined answers for it.
const GATEWAY = new Set([502, 504]);

interface Question {
  method?: string;
  body?: string;
  headers?: Record<string, string>;
  signal: AbortSignal;
}

/** PATIENCE is how long an answer may take, in milliseconds. */
const PATIENCE = 15_000;

/** open sends a request and returns the answer's head once it is a good one. */
export async function open(path: string, init: Question): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { cache: "no-store", ...init, headers: { ...init.headers, ...authorization() } });
  } catch (e) {
    if (init.signal.aborted && init.signal.reason !== "patience") throw e;
    lost();
    throw new Away("the control plane does not answer");
  }
  if (GATEWAY.has(answer.status)) {
    lost();
    throw new Away("the control plane does not answer");
  }
  found();
  if (!answer.ok) throw new Refusal(answer.status, await sentence(answer));
  return answer;
}

async function sentence(answer: Response): Promise<string> {
  const text = await answer.text();
  try {
    const body = JSON.parse(text) as { error?: unknown };
    if (typeof body.error === "string") return body.error;
  } catch {
    // Not JSON: the text itself.
  }
  return text.trim() || `the control plane answered ${answer.status}`;
}

/** ask gets one JSON answer, or posts a question for it. */
export async function ask<T>(path: string, stop: AbortSignal, question?: unknown): Promise<T> {
  const patience = new AbortController();
  const clock = setTimeout(() => patience.abort("patience"), PATIENCE);
  const relay = () => patience.abort(stop.reason);
  stop.addEventListener("abort", relay);
  try {
    const init: Question = { signal: patience.signal };
    if (question !== undefined) {
      init.method = "POST";
      init.headers = { "Content-Type": "application/json" };
      init.body = JSON.stringify(question);
    }
    const answer = await open(path, init);
    return (await answer.json()) as T;
  } finally {
    clearTimeout(clock);
    stop.removeEventListener("abort", relay);
  }
}
