// A real Chromium, and the built pages before it.

import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { createRequire } from "node:module";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium, type Browser, type Page } from "playwright-core";
import { answerFor, type Mesh } from "./recorded.ts";

/** launch starts Chromium (CHROMIUM, or Debian's). As root it has no sandbox of its own to go into. */
export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
}

const types: Record<string, string> = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain" };
// The one that ui.go sends; ui_test.go compares.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export interface Recorded {
  url: string;
  /** away makes it not answer, as a control plane that is gone. */
  away: boolean;
  /** mesh may be changed at any time. */
  mesh: Mesh;
  close: () => Promise<void>;
}

/** serve answers from dist/ and from recorded answers. */
export async function serve(mesh: Mesh): Promise<Recorded> {
  const dist = fileURLToPath(new URL("../dist", import.meta.url));
  const state = { away: false, mesh };
  const server: Server = createServer((req, res) => {
    void (async () => {
      const path = req.url ?? "/";
      if (path.startsWith("/api/")) {
        if (state.away) {
          res.writeHead(502).end("away");
          return;
        }
        const answer = answerFor(path, state.mesh);
        res.writeHead(answer === undefined ? 404 : 200, { "content-type": "application/json" });
        res.end(JSON.stringify(answer ?? { error: "there is no such thing" }));
        return;
      }
      const file = path === "/" ? "/index.html" : path;
      try {
        const body = await readFile(join(dist, file));
        res.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream", "content-security-policy": policy }).end(body);
      } catch {
        res.writeHead(404).end();
      }
    })();
  });
  await new Promise<void>((up) => server.listen(0, "127.0.0.1", up));
  const { port } = server.address() as AddressInfo;
  return Object.assign(state, {
    url: `http://127.0.0.1:${port}/`,
    close: () =>
      new Promise<void>((down) => {
        server.closeAllConnections();
        server.close(() => down());
      }),
  });
}

const require = createRequire(import.meta.url);

/** faults runs axe over the page and returns what it finds, one line each. */
export async function faults(page: Page): Promise<string[]> {
  // By the debugger's protocol: the page's own policy would refuse it.
  await page.evaluate(await readFile(require.resolve("axe-core/axe.min.js"), "utf8"));
  const found = await page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: { run: (where: Document, how: object) => Promise<{ violations: { id: string; help: string; nodes: { html: string; failureSummary?: string }[] }[] }> } };
    return (await axe.run(document, { resultTypes: ["violations"] })).violations;
  });
  return found.flatMap((v) => v.nodes.map((n) => `${v.id}: ${v.help}: ${n.html.slice(0, 200)} ${n.failureSummary ?? ""}`));
}

/** complaints collects what the page writes to its console and what it throws. */
export function complaints(page: Page): string[] {
  const list: string[] = [];
  page.on("console", (m) => {
    // A failed request is written by the browser itself, whatever the page makes of it.
    if ((m.type() === "error" || m.type() === "warning") && !m.text().startsWith("Failed to load resource")) list.push(m.text());
  });
  page.on("pageerror", (e) => list.push(e.message));
  return list;
}
