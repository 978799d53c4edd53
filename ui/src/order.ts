// Order of rows. Pure.

export type Key = string | number | undefined;

export interface Order {
  column: string;
  down: boolean;
}

/** parseOrder reads "rps.down"; what is no column is the otherwise. */
export function parseOrder(text: string, columns: readonly string[], otherwise: Order): Order {
  const [column = "", way = ""] = text.split(".", 2);
  return columns.includes(column) && (way === "up" || way === "down") ? { column, down: way === "down" } : otherwise;
}

/** writeOrder is the address's form; the otherwise needs none. */
export function writeOrder(o: Order, otherwise: Order): string {
  return o.column === otherwise.column && o.down === otherwise.down ? "" : `${o.column}.${o.down ? "down" : "up"}`;
}

const collator = new Intl.Collator("en", { numeric: true });

/** ordered sorts without moving equals; what is not known comes last either way. */
export function ordered<T>(rows: readonly T[], key: (row: T) => Key, down: boolean): T[] {
  return rows
    .map((row, i) => ({ row, i, k: key(row) }))
    .sort((a, b) => {
      const none = Number(a.k === undefined) - Number(b.k === undefined);
      if (none !== 0) return none;
      const c = compare(a.k, b.k);
      return c !== 0 ? (down ? -c : c) : a.i - b.i;
    })
    .map((e) => e.row);
}

function compare(a: Key, b: Key): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a ?? ""), String(b ?? ""));
}
