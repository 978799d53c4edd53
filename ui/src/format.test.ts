import { describe, expect, it } from "vitest";
import { account, ago, bytes, compact, hostOf, millis, percent, rate, share, span, success } from "./format.ts";

describe("numbers", () => {
  it.each([
    [rate(0), "0/s"],
    [rate(0.04), "0.04/s"],
    [rate(52.4), "52/s"],
    [rate(1234), "1.2k/s"],
    [rate(undefined), "–"],
    [compact(999.6), "1.0k"],
    [compact(9_960), "10k"],
    [compact(1_500_000), "1.5M"],
    [millis(0), "0 ms"],
    [millis(0.312), "0.31 ms"],
    [millis(4.24), "4.2 ms"],
    [millis(180), "180 ms"],
    [millis(2400), "2.4 s"],
    [millis(Number.NaN), "–"],
    [bytes(512), "512 B"],
    [bytes(1440), "1.4 KB"],
    [bytes(23_000_000), "23 MB"],
    [share(0.001), "<1 %"],
    [share(0.9), "90 %"],
    [share(0.999), ">99 %"],
    [percent(0.012), "1.2 %"],
  ])("%s", (got, want) => expect(got).toBe(want));

  it("never rounds a failure away", () => {
    expect(success(1)).toBe("100 %");
    expect(success(0.99999)).toBe("99.99 %");
    expect(success(0.9999)).toBe("99.99 %");
    expect(success(0.98999)).toBe("98.9 %");
    expect(success(0.0001)).toBe("0.0 %");
    expect(success(0)).toBe("0 %");
  });
});

describe("time", () => {
  it.each([
    [span(0), "0 s"],
    [span(59.4), "59 s"],
    [span(200), "3 min 20 s"],
    [span(1500), "25 min"],
    [span(3 * 3600 + 240), "3 h 4 min"],
    [span(3 * 86_400 + 4 * 3600), "3 d 4 h"],
    [span(40 * 86_400), "40 d"],
    [span(10 * 365.25 * 86_400), "10 years"],
  ])("%s", (got, want) => expect(got).toBe(want));

  it("says how long ago", () => {
    const now = Date.parse("2026-11-23T06:00:10Z");
    expect(ago("2026-11-23T06:00:00Z", now)).toBe("10 s ago");
    expect(ago("2026-11-23T06:00:20Z", now)).toBe("now");
    expect(ago("0001-01-01T00:00:00Z", now)).toBe("–");
    expect(ago(undefined, now)).toBe("–");
    expect(ago("nonsense", now)).toBe("–");
  });
});

describe("names", () => {
  it("shortens what has a short form, and nothing else", () => {
    expect(account("spiffe://cluster.local/ns/shop/sa/frontend")).toBe("shop/frontend");
    expect(account("spiffe://elsewhere/workload")).toBe("spiffe://elsewhere/workload");
    expect(account("")).toBe("–");
    expect(hostOf("billing.shop.svc.cluster.local")).toBe("billing.shop");
    expect(hostOf("api.example.com")).toBe("api.example.com");
  });
});
