// Takes the pictures of docs/ from a real demo: npm run screenshots.

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.ts";
import { up } from "./demo.ts";

const out = fileURLToPath(new URL("../../docs/images/", import.meta.url));
/** WARM is how long the demo runs before, so that the charts have something to show. */
const WARM = Number(process.env.WARM ?? "150") * 1000;

const pages = [
  { name: "dashboard-graph", path: "#/" },
  { name: "dashboard-service", path: "#/service/billing-service.default.svc.cluster.local?range=5m" },
  { name: "dashboard-explain", path: "#/explain?from=default/frontend&url=http://billing-service:8080/invoice" },
];

await mkdir(out, { recursive: true });
const demo = await up();
const browser = await launch();
try {
  await new Promise((warm) => setTimeout(warm, WARM));
  for (const colorScheme of ["light", "dark"] as const) {
    const page = await browser.newPage({ viewport: { width: 1240, height: 800 }, colorScheme, reducedMotion: "reduce" });
    await page.goto(demo.url);
    await page.locator(".node").first().waitFor();
    for (const { name, path } of pages) {
      await page.goto(new URL(path, new URL("/", demo.url)).href);
      await page.locator(".node, .chart canvas, .steps").first().waitFor();
      // Until the numbers of the first seconds are there.
      await page.waitForTimeout(5000);
      await page.screenshot({ path: `${out}${name}-${colorScheme}.png` });
    }
    await page.close();
  }
} finally {
  await browser.close();
  await demo.close();
}
