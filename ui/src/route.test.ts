import { describe, expect, it } from "vitest";
import { href, parse } from "./route.ts";

describe("addresses", () => {
  it("are read as they were written", () => {
    const link = href(["edge", "shop", "front end", "billing.shop.svc.cluster.local"], { range: "1h", q: "", ns: undefined, sort: "rps.down" });
    expect(link).toBe("#/edge/shop/front%20end/billing.shop.svc.cluster.local?range=1h&sort=rps.down");
    const r = parse(link);
    expect(r.parts).toEqual(["edge", "shop", "front end", "billing.shop.svc.cluster.local"]);
    expect(Object.fromEntries(r.params)).toEqual({ range: "1h", sort: "rps.down" });
  });

  it.each([["", []], ["#", []], ["#/", []], ["#nonsense", ["nonsense"]], ["#/%E0%A4%A", ["%E0%A4%A"]]])("%j is no fault", (hash, parts) => {
    expect(parse(hash).parts).toEqual(parts);
  });
});
