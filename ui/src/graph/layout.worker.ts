// Arranging 500 services takes longer than a frame; it is not done where frames are made.
import { arrange, type Plan } from "./layout.ts";

addEventListener("message", (e: MessageEvent<{ id: number; plan: Plan }>) => {
  postMessage({ id: e.data.id, layout: arrange(e.data.plan) });
});
