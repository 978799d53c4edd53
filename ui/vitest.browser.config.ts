import { defineConfig } from "vitest/config";

// Tests that drive a real Chromium over dist/; see test/run.sh.
export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  test: {
    include: ["test/**/*.browser.ts"],
    // One browser at a time; the limits are for machines that are busy.
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
