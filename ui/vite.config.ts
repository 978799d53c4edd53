import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { licences } from "./licences.ts";

const licence = licences();

// The same sources give the same bytes: dist/ is committed, and the tests build
// it again and compare.
export default defineConfig({
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "./",
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  plugins: [licence.page],
  worker: { format: "es", plugins: () => [licence.collect] },
  build: {
    target: "es2022",
    outDir: "dist",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0, // the content security policy allows no data: addresses
    reportCompressedSize: false,
  },
  // `npm run dev` beside a running `seine up`.
  server: { proxy: { "/api": { target: "http://127.0.0.1:15016", changeOrigin: true } } },
  test: { include: ["src/**/*.test.ts"] },
});
