// 500 services. The times are printed, never judged: they are the machine's.

import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { complaints, launch, serve, type Recorded } from "./browser.ts";
import { mesh } from "./recorded.ts";

const SERVICES = 500;
let browser: Browser;
let server: Recorded;

beforeAll(async () => {
  browser = await launch();
  server = await serve(mesh(SERVICES));
});
afterAll(async () => {
  await browser.close();
  await server.close();
});

function report(what: string, milliseconds: number[]): void {
  const sorted = [...milliseconds].sort((a, b) => a - b);
  const at = (q: number): string => (sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN).toFixed(1);
  console.info(`measured: ${what}: median ${at(0.5)} ms, P95 ${at(0.95)} ms, worst ${at(1)} ms (${sorted.length})`);
}

// frames moves the pointer and returns the time between frames meanwhile.
async function frames(page: Page, move: () => Promise<void>): Promise<number[]> {
  await page.evaluate(() => {
    const w = globalThis as unknown as { ticks: number[]; ticking: boolean };
    w.ticks = [];
    w.ticking = true;
    const tick = (t: number): void => {
      w.ticks.push(t);
      if (w.ticking) requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  await move();
  const ticks = await page.evaluate(() => {
    const w = globalThis as unknown as { ticks: number[]; ticking: boolean };
    w.ticking = false;
    return w.ticks;
  });
  return ticks.slice(1).map((t, i) => t - (ticks[i] ?? t));
}

it("are drawn, stand still between updates, and can be moved, found and sorted", async () => {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, reducedMotion: "reduce" });
  const said = complaints(page);
  const began = Date.now();
  await page.goto(server.url);
  await page.locator(".node").first().waitFor();
  report("from the address to the graph", [Date.now() - began]);
  expect(await page.locator(".node").count()).toBe(SERVICES);
  expect(await page.locator("a.edge").count()).toBe(server.mesh.graph.edges.length);

  // New numbers move nothing.
  const places = (): Promise<Record<string, string>> =>
    page.evaluate(() => Object.fromEntries([...document.querySelectorAll<SVGElement>(".node")].map((n) => [n.dataset.id ?? "", n.style.transform])));
  const before = await places();
  const busiest = page.locator(".node", { hasText: "edge-000" });
  const words = await busiest.getAttribute("aria-label");
  server.mesh = mesh(SERVICES, 1);
  await expect.poll(() => busiest.getAttribute("aria-label"), { timeout: 20_000 }).not.toBe(words);
  expect(await places()).toEqual(before);

  const box = await page.locator(".mesh").boundingBox();
  if (!box) throw new Error("the graph has no box");
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  report("a frame while dragging", await frames(page, async () => {
    await page.mouse.move(x, y);
    await page.mouse.down();
    for (let i = 0; i < 60; i++) await page.mouse.move(x + i * 3, y + i);
    await page.mouse.up();
  }));
  report("a frame while zooming", await frames(page, async () => {
    for (let i = 0; i < 30; i++) await page.mouse.wheel(0, i < 15 ? -90 : 90);
  }));
  report("a frame while idle, with updates", await frames(page, () => page.waitForResponse((r) => r.url().includes("/graph")).then(() => page.waitForResponse((r) => r.url().includes("/graph"))).then(() => undefined)));

  const clicked = Date.now();
  await page.getByRole("button", { name: "Table" }).click();
  await page.locator("tbody tr").first().waitFor();
  report("to the table of all calls", [Date.now() - clicked]);
  const all = server.mesh.graph.edges.length;
  expect(await page.locator("table").getAttribute("aria-rowcount")).toBe(String(all + 1));
  expect(await page.locator("tbody tr").count()).toBeLessThan(all / 2);
  const sorted = Date.now();
  await page.locator("th button", { hasText: "P99" }).click();
  await expect.poll(() => page.locator("th[aria-sort]", { hasText: "P99" }).count()).toBe(1);
  report("to sort it", [Date.now() - sorted]);
  const p99 = await page.evaluate(() => [...document.querySelectorAll("tbody tr")].slice(0, 30).map((r) => parseFloat(r.querySelectorAll(".num")[3]?.textContent ?? "")));
  expect(p99).toEqual([...p99].sort((a, b) => b - a));

  // Whoever goes on to the end finds all of them.
  await expect
    .poll(async () => {
      await page.locator("tbody tr").last().scrollIntoViewIfNeeded();
      return page.locator("tbody tr").count();
    }, { timeout: 20_000 })
    .toBe(all);
  await page.getByRole("button", { name: "Graph" }).click();
  await page.getByRole("searchbox").fill("data-019");
  await expect.poll(() => page.locator(".node").count()).toBeLessThan(20);
  expect(said).toEqual([]);
  await page.close();
});
