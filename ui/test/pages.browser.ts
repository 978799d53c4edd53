// Every page, in Chromium, over recorded answers.

import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { complaints, faults, launch, serve, type Recorded } from "./browser.ts";
import { mesh } from "./recorded.ts";

let browser: Browser;
let server: Recorded;

beforeAll(async () => {
  browser = await launch();
  server = await serve(mesh(24));
});
afterAll(async () => {
  await browser.close();
  await server.close();
});

const SERVICE = "api-005.team-01.svc.cluster.local";
const pages: [path: string, title: string, shows: string][] = [
  ["#/", "Graph", "svg .node"],
  ["#/?view=table", "Graph", "tbody tr"],
  ["#/services", "Services", "tbody tr"],
  [`#/service/${SERVICE}`, "api-005.team-01", ".chart canvas"],
  ["#/workloads", "Workloads", "tbody tr"],
  ["#/workload/team-01/api-005", "api-005", ".chart canvas"],
  ["#/live", "Live requests", "form"],
  ["#/config", "Configuration", "tbody tr"],
  ["#/certificates", "Certificates", "tbody tr"],
  ["#/breakers", "Circuit breakers", ".empty"],
  ["#/explain", "Explain", "form"],
  ["#/infrastructure", "Infrastructure", ".empty"],
  ["#/nonsense", "Not found", ".empty"],
];

async function opened(path: string, how: Parameters<Browser["newPage"]>[0] = {}): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...how });
  await page.goto(server.url + path);
  return page;
}

describe.each(["light", "dark"] as const)("in the %s", (colorScheme) => {
  it.each(pages)("%s is whole and accessible", async (path, title, shows) => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", colorScheme });
    const said = complaints(page);
    await page.goto(server.url + path);
    await page.locator(`main ${shows}`).first().waitFor();
    await expect.poll(() => page.locator(".wait").count()).toBe(0);
    expect(await page.locator("h1").innerText()).toBe(title);
    expect(await page.title()).toBe(`${title} · Seine`);
    expect(await faults(page)).toEqual([]);
    expect(said).toEqual([]);
    await page.close();
  });
});

it("fits a telephone: nothing is wider than the screen", async () => {
  for (const [path, , shows] of pages) {
    const page = await opened(path, { viewport: { width: 390, height: 800 } });
    await page.locator(`main ${shows}`).first().waitFor();
    expect(await page.evaluate(() => document.documentElement.scrollWidth), path).toBeLessThanOrEqual(390);
    await page.close();
  }
});

it("is walked by keyboard alone", async () => {
  const page = await opened("#/");
  await page.locator(".node").first().waitFor();
  const focused = (): Promise<string> =>
    page.evaluate(() => {
      const e = document.activeElement;
      return e?.getAttribute("aria-label") ?? e?.textContent.trim() ?? "";
    });
  const press = async (key: string): Promise<string> => {
    await page.keyboard.press(key);
    return focused();
  };
  // The skip link comes first and leads over the navigation.
  expect(await press("Tab")).toBe("Skip to the content");
  await page.keyboard.press("Enter");
  await expect.poll(focused).toBe("Graph");
  // By tab to the graph: one stop, whatever its size.
  let at = "";
  for (let i = 0; i < 12 && !/^edge|^api|^logic|^data/.test(at); i++) at = await press("Tab");
  expect(at).toMatch(/ in team-0\d, /);
  // By arrows from service to service, and by Enter to its page.
  const first = at;
  const seen = new Set([at]);
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"]) seen.add(await press(key));
  expect(seen.size).toBeGreaterThan(2);
  const name = (await focused()).split(" ")[0] ?? "";
  expect(first).not.toBe("");
  await page.keyboard.press("Enter");
  await page.locator(".chart canvas").first().waitFor();
  // The page that opened says so: its heading has the focus.
  await expect.poll(focused).toContain(name);
  // A table is sorted by its heading's button.
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Services" }).focus();
  await page.keyboard.press("Enter");
  const heading = page.locator("th button", { hasText: "P99" });
  await heading.focus();
  await page.keyboard.press("Enter");
  await expect.poll(() => page.locator("th[aria-sort]", { hasText: "P99" }).getAttribute("aria-sort")).toBe("descending");
  expect(page.url()).toContain("sort=p99.down");
  await page.goBack();
  await page.goBack();
  await page.locator(".node").first().waitFor();
  await page.close();
});

it("keeps the state in the address", async () => {
  const page = await opened("#/");
  await page.getByRole("button", { name: "Table" }).click();
  await page.getByRole("searchbox").fill("logic-01");
  await page.getByLabel("Namespace").selectOption("team-01");
  await expect.poll(() => page.url()).toContain("q=logic-01");
  const rows = await page.locator("tbody tr").count();
  expect(rows).toBeGreaterThan(0);
  const again = await browser.newPage();
  await again.goto(page.url());
  await expect.poll(() => again.locator("tbody tr").count()).toBe(rows);
  expect(await again.getByRole("searchbox").inputValue()).toBe("logic-01");
  await again.close();
  // A browser keeps the theme, and nothing else.
  await page.getByLabel("Theme").selectOption("dark");
  // eslint-disable-next-line no-restricted-globals -- it is what is tested
  expect(await page.evaluate(() => Object.entries(localStorage))).toEqual([["seine.theme", "dark"]]);
  await page.close();
});

it("says once that nothing answers, keeps what it shows, and recovers by itself", async () => {
  const page = await opened("#/services");
  await page.locator("tbody tr").first().waitFor();
  server.away = true;
  const banner = page.locator(".banner");
  await expect.poll(() => banner.count(), { timeout: 20_000 }).toBe(1);
  expect(await banner.innerText()).toContain("No connection to the control plane since");
  expect(await page.locator("tbody tr").count()).toBe(24);
  expect(await page.locator("main .notice").count()).toBe(0);
  // Another page has nothing to show yet, and says nothing of its own.
  await page.getByRole("link", { name: "Certificates" }).click();
  await page.locator(".wait").waitFor();
  server.away = false;
  await page.locator("tbody tr").first().waitFor({ timeout: 20_000 });
  await expect.poll(() => banner.count(), { timeout: 20_000 }).toBe(0);
  await page.close();
});

it("takes a token out of the address, and sends it with each question", async () => {
  const page = await browser.newPage();
  const asked: (string | undefined)[] = [];
  page.on("request", (r) => {
    if (r.url().includes("/api/")) asked.push(r.headers().authorization);
  });
  await page.goto(`${server.url}#token=0123abcd`);
  await page.locator(".node").first().waitFor();
  expect(page.url()).not.toContain("0123abcd");
  expect(asked.length).toBeGreaterThan(0);
  expect(new Set(asked)).toEqual(new Set(["Bearer 0123abcd"]));
  await page.close();
});

it("says what is missing", async () => {
  const page = await opened("#/service/nobody.nowhere.svc.cluster.local");
  await page.getByText("Not found").waitFor();
  expect(await page.locator("main").innerText()).toContain("there is no such thing");
  await page.close();
});
