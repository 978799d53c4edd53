import type { Layout, Plan } from "./layout.ts";

/** Arranger lays plans out in a worker. The last plan counts. */
export class Arranger {
  private readonly worker = new Worker(new URL("./layout.worker.ts", import.meta.url), { type: "module" });
  private last = 0;

  constructor(done: (layout: Layout) => void) {
    this.worker.addEventListener("message", (e: MessageEvent<{ id: number; layout: Layout }>) => {
      if (e.data.id === this.last) done(e.data.layout);
    });
  }

  arrange(plan: Plan): void {
    this.worker.postMessage({ id: ++this.last, plan });
  }

  close(): void {
    this.worker.terminate();
  }
}
