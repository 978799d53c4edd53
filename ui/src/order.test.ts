import { describe, expect, it } from "vitest";
import { ordered, parseOrder, writeOrder } from "./order.ts";

describe("order", () => {
  const rows = [{ n: 2, k: "a" }, { n: undefined, k: "b" }, { n: 10, k: "c" }, { n: 2, k: "d" }];
  const keys = (down: boolean): string => ordered(rows, (r) => r.n, down).map((r) => r.k).join("");

  it("is by number, without moving equals, what is not known last", () => {
    expect(keys(false)).toBe("adcb");
    expect(keys(true)).toBe("cadb");
  });

  it("takes numbers within names for numbers", () => {
    expect(ordered(["v10", "v9", "v1"], (x) => x, false)).toEqual(["v1", "v9", "v10"]);
  });

  it("is read from an address, and nonsense is the usual", () => {
    const usual = { column: "rps", down: true };
    expect(parseOrder("name.up", ["name", "rps"], usual)).toEqual({ column: "name", down: false });
    for (const text of ["", "name", "name.sideways", "other.up", "__proto__.up"]) expect(parseOrder(text, ["name", "rps"], usual)).toEqual(usual);
    expect(writeOrder({ column: "name", down: false }, usual)).toBe("name.up");
    expect(writeOrder(usual, usual)).toBe("");
  });
});
