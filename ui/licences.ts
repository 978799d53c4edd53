import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";

interface Package {
  name: string;
  version: string;
  license: string;
}

// rootOf is the folder of the package that a bundled module belongs to.
function rootOf(module: string): string | undefined {
  return /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(module)?.[0];
}

function textOf(root: string): string {
  const p = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Package;
  const file = readdirSync(root).find((f) => /^licen[cs]e/i.test(f));
  const text = file ? readFileSync(join(root, file), "utf8").trim() : "";
  return `${p.name} ${p.version} (${p.license})\n\n${text}\n`;
}

/**
 * licences makes dist/licences.txt: name, version and licence text of every
 * package that went into the bundle, as their licences ask. A worker is bundled
 * by itself with plugins of its own: collect goes there, page to the page.
 */
export function licences(): { collect: Plugin; page: Plugin } {
  const roots = new Set<string>();
  const collect: Plugin = {
    name: "licences-collect",
    apply: "build",
    moduleParsed({ id }) {
      const root = rootOf(id);
      if (root) roots.add(root);
    },
  };
  const page: Plugin = {
    ...collect,
    name: "licences",
    generateBundle() {
      const texts = [...roots].map(textOf).sort();
      this.emitFile({ type: "asset", fileName: "licences.txt", source: `The dashboard contains:\n\n${texts.join("\n----\n\n")}` });
    },
  };
  return { collect, page };
}
