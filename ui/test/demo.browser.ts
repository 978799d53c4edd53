// The walk through the dashboard of a real mesh.

import { readFile, writeFile } from "node:fs/promises";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { complaints, faults, launch } from "./browser.ts";
import { up, type Demo } from "./demo.ts";

const PATIENCE = { timeout: 60_000 };
let demo: Demo;
let browser: Browser;
let page: Page;
let said: string[];

beforeAll(async () => {
  demo = await up();
  browser = await launch();
  page = await browser.newPage({ viewport: { width: 1360, height: 860 }, reducedMotion: "reduce" });
  page.setDefaultTimeout(PATIENCE.timeout); // a busy machine, no promise
  said = complaints(page);
  await page.goto(demo.url);
}, 180_000);
afterAll(async () => {
  await browser.close();
  await demo.close();
}, 60_000);

const main = (): Promise<string> => page.locator("main").innerText();
const nav = (name: string): Promise<void> => page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name }).click();

it("shows who calls whom, how fast, how well and how safely", async () => {
  await page.locator('.node[aria-label^="billing-service "][aria-label*="in default, healthy"]').waitFor(PATIENCE);
  // The canary: measured shares of both versions, and what the route wants.
  await expect.poll(() => page.locator('.node[aria-label*="v1 "][aria-label*="v2 "] .want').count(), PATIENCE).toBe(1);
  const call = page.locator('.edge[aria-label^="default/frontend calls billing-service.default: "]');
  await expect.poll(() => call.getAttribute("aria-label"), PATIENCE).toMatch(/\d\/s HTTP .*, success .*%, P50 .* ms, P99 .*s, mutual TLS, v1 .*v2/);
  await expect.poll(async () => (await page.locator(".tiles").innerText()).replace(/\s+/g, " "), PATIENCE).toMatch(/Mutual TLS 100 %/);
  expect(await faults(page)).toEqual([]);
});

it("shows a service over time, and moves with a route that is changed", async () => {
  await page.locator('.node[aria-label^="billing-service"]').click();
  await expect.poll(() => page.locator(".chart canvas").count(), PATIENCE).toBeGreaterThanOrEqual(3);
  await expect.poll(() => page.locator("section[aria-label=Requests] .now").innerText(), PATIENCE).toMatch(/v1 [\d.]+\/s/);
  expect(await main()).toContain("VirtualService default/billing-route[0]");
  const text = await readFile(demo.mesh, "utf8");
  await writeFile(demo.mesh, text.replace("weight: 90", "weight: 40").replace("weight: 10", "weight: 60"));
  const versions = page.locator('section[aria-label="Versions"]');
  await expect.poll(() => versions.innerText(), PATIENCE).toMatch(/v2[\s\S]*60 %/);
  expect(await faults(page)).toEqual([]);
});

it("shows workloads and calls", async () => {
  await nav("Workloads");
  await page.getByRole("link", { name: "default/frontend" }).click();
  await expect.poll(main, PATIENCE).toContain("in step");
  await page.getByRole("link", { name: /^over time/ }).first().click();
  await expect.poll(() => page.locator("h1").innerText()).toMatch(/^frontend → /);
  await expect.poll(() => page.locator(".chart canvas").count(), PATIENCE).toBeGreaterThanOrEqual(3);
});

it("shows requests as they end, and stands still when asked to", async () => {
  await nav("Live requests");
  await page.getByLabel("Path").fill("/");
  await page.getByLabel("Seen by").selectOption("outbound");
  await page.getByRole("button", { name: "Show requests" }).click();
  await page.locator("table.live tbody tr").nth(3).waitFor(PATIENCE);
  await page.getByRole("button", { name: "Pause" }).click();
  const before = await page.locator("table.live tbody").innerText();
  await expect.poll(() => page.locator("main p[role=status]").innerText(), PATIENCE).toMatch(/Paused; [1-9]/);
  expect(await page.locator("table.live tbody").innerText()).toBe(before);
  await page.getByRole("button", { name: /^More/ }).first().click();
  await expect.poll(() => page.locator("table.live .facts").innerText()).toMatch(/mutual tls/i);
  expect(await faults(page)).toEqual([]);
  await page.getByRole("button", { name: "Stop" }).click();
});

it("shows what is configured, who has it, and for how long they are who they are", async () => {
  await nav("Configuration");
  await expect.poll(main, PATIENCE).toMatch(/7 of 7\s+proxies/);
  expect(await main()).toContain("Istio has replaced MeshPolicy");
  expect(await main()).toContain("VirtualService default/billing-route");
  await nav("Certificates");
  await expect.poll(main, PATIENCE).toMatch(/default\/billing[\s\S]*in \d+ h/);
  await nav("Circuit breakers");
  await expect.poll(main, PATIENCE).toContain("No endpoint is ejected");
  await nav("Infrastructure");
  await expect.poll(main, PATIENCE).toMatch(/Steal[\s\S]* %/);
});

it("explains a request, and the answer can be shared", async () => {
  await nav("Explain");
  await page.getByLabel("From").fill("default/frontend");
  await page.getByLabel("URL").fill("http://billing-service:8080/invoice");
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByText("It is forwarded").waitFor(PATIENCE);
  expect(await page.locator(".steps li").count()).toBeGreaterThan(4);
  expect(page.url()).toContain("from=default%2Ffrontend");
  expect(await faults(page)).toEqual([]);
  await page.getByLabel("From").fill("default/nobody");
  await page.getByRole("button", { name: "Explain" }).click();
  await page.getByText('there is no workload "nobody"').waitFor(PATIENCE);
});

it("says nothing to the console, and asks nobody else", () => {
  expect(said).toEqual([]);
});

it("does not let in who has no token", async () => {
  const stranger = await browser.newPage();
  await stranger.goto(new URL("/", demo.url).href);
  await stranger.getByText("This control plane wants to know who asks").first().waitFor(PATIENCE);
  await stranger.close();
});
