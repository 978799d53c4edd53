import { useSignal, type Signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Away, ask } from "./client.ts";

/** Polled is the last answer of an address that is asked again and again. */
export interface Polled<T> {
  data: T | undefined;
  /** error is why the last question failed; data is then the answer before. */
  error: Error | undefined;
  /** at is when data came, in milliseconds since 1970. */
  at: number;
}

const NOTHING: Polled<never> = { data: undefined, error: undefined, at: 0 };

// Going back to a page shows what it showed, at once.
const kept = new Map<string, Polled<unknown>>();
const KEEP = 40;

function keep(path: string, p: Polled<unknown>): void {
  kept.delete(path);
  kept.set(path, p);
  const oldest = kept.size > KEEP ? kept.keys().next().value : undefined;
  if (oldest !== undefined) kept.delete(oldest);
}

/** wait is the pause after so many failures in a row, in milliseconds. */
export function wait(every: number, failures: number): number {
  return failures === 0 ? every : Math.min(10_000, Math.max(1000, every / 2) * 2 ** (failures - 1));
}

/**
 * usePoll asks path every so many milliseconds while the page is seen, and less
 * often while nothing answers. An undefined path asks nothing.
 */
export function usePoll<T>(path: string | undefined, every: number): Signal<Polled<T>> {
  const state = useSignal<Polled<T>>((path && (kept.get(path) as Polled<T> | undefined)) || NOTHING);
  useEffect(() => {
    if (path === undefined) return;
    state.value = (kept.get(path) as Polled<T> | undefined) ?? NOTHING;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let failures = 0;
    const turn = async (): Promise<void> => {
      try {
        const data = await ask<T>(path, stop.signal);
        failures = 0;
        state.value = { data, error: undefined, at: Date.now() };
        keep(path, state.value);
      } catch (e) {
        if (stop.signal.aborted) return;
        failures++;
        state.value = { ...state.value, error: e instanceof Error ? e : new Away(String(e)) };
      }
      if (!document.hidden && !stop.signal.aborted) timer = setTimeout(() => void turn(), wait(every, failures));
      else timer = undefined;
    };
    // What nobody sees is not asked; what is seen again is asked at once.
    const seen = (): void => {
      if (!document.hidden && timer === undefined && !stop.signal.aborted) void turn();
    };
    document.addEventListener("visibilitychange", seen);
    // A network that came back is no reason to wait for the next turn.
    const online = (): void => {
      if (timer !== undefined) clearTimeout(timer);
      timer = undefined;
      seen();
    };
    addEventListener("online", online);
    void turn();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      removeEventListener("online", online);
    };
  }, [path, every, state]);
  return state;
}
