import { describe, expect, it } from "vitest";
import { Lines, LONGEST, readLines } from "./lines.ts";
import { wait } from "./poll.ts";
import { failed, tapPath, type TapRequest } from "./tap.ts";

describe("lines", () => {
  it("are whole, however they come", () => {
    const l = new Lines();
    expect(l.take('{"a":')).toEqual([]);
    expect(l.take("1}\n\n{")).toEqual(['{"a":1}']);
    expect(l.take("}\n")).toEqual(["{}"]);
  });

  it("have an end", () => {
    const l = new Lines();
    expect(() => l.take("x".repeat(LONGEST + 1))).toThrow("no end");
  });

  it("are read from a stream, letters cut in two too", async () => {
    const bytes = new TextEncoder().encode('{"a":"é"}\n{"a":"b"}\n');
    const body = new ReadableStream<Uint8Array>({
      start(c) {
        for (const b of bytes) c.enqueue(Uint8Array.of(b));
        c.close();
      },
    });
    const got: unknown[] = [];
    await readLines(body, (v) => got.push(v));
    expect(got).toEqual([{ a: "é" }, { a: "b" }]);
  });
});

describe("tap", () => {
  it("asks for what the page's address says", () => {
    expect(tapPath(new URLSearchParams())).toBe("/api/v1/tap");
    expect(tapPath(new URLSearchParams({ namespace: "shop", status: "5xx, 404", method: "GET", to: "", other: "x", path: "/a b" }))).toBe(
      "/api/v1/tap?namespace=shop&method=GET&path=%2Fa+b&status=5xx&status=404",
    );
  });

  it("knows a failure", () => {
    const r = (x: Partial<TapRequest>): TapRequest => ({ type: "request", time: "", proxy: "", direction: "inbound", source: {}, destination: {}, method: "GET", path: "/", status: 200, latencyMs: 1, ...x });
    expect(failed(r({}))).toBe(false);
    expect(failed(r({ status: 404 }))).toBe(false);
    expect(failed(r({ status: 503 }))).toBe(true);
    expect(failed(r({ status: 0 }))).toBe(true);
    expect(failed(r({ grpc: true, grpcStatus: 14 }))).toBe(true);
  });
});

it("asks less often while nothing answers", () => {
  expect([0, 1, 2, 3, 9].map((n) => wait(2000, n))).toEqual([2000, 1000, 2000, 4000, 10_000]);
});
