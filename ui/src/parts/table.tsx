import type { ComponentChildren, JSX } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ordered, parseOrder, writeOrder, type Key, type Order } from "../order.ts";
import { param, setParams } from "../route.ts";

export interface Column<T> {
  id: string;
  title: string;
  numeric?: boolean;
  /** key is what the rows are sorted by; without one they cannot be. */
  key?: (row: T) => Key;
  cell: (row: T) => ComponentChildren;
  className?: string;
}

interface Props<T> {
  /** caption names the table to those who do not see it. */
  caption: string;
  columns: Column<T>[];
  rows: readonly T[];
  id: (row: T) => string;
  /** name keeps the order of several tables of a page apart in the address. */
  name?: string;
  initial: Order;
}

// So many rows are drawn at first, and so many more each time that the end comes
// near: a thousand at once would take the browser a second.
const STEP = 100;

/** Table is sortable by its headings; the first column heads the row. */
export function Table<T>({ caption, columns, rows, id, name = "sort", initial }: Props<T>): JSX.Element {
  const order = parseOrder(param(name), columns.filter((c) => c.key).map((c) => c.id), initial);
  const key = columns.find((c) => c.id === order.column)?.key;
  const sorted = key ? ordered(rows, key, order.down) : rows;
  const [drawn, setDrawn] = useState(STEP);
  const draw = useCallback(() => setDrawn((n) => n + STEP), []);
  const rest = sorted.length - drawn;
  const sort = (c: Column<T>): void => {
    setDrawn(STEP);
    const down = order.column === c.id ? !order.down : Boolean(c.numeric);
    setParams({ [name]: writeOrder({ column: c.id, down }, initial) });
  };
  return (
    // What scrolls must be reachable by keyboard.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div class="scroll" role="group" aria-label={caption} tabIndex={0}>
      <table aria-rowcount={rest > 0 ? sorted.length + 1 : undefined}>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {columns.map((c) => {
              const on = order.column === c.id;
              return (
                <th key={c.id} scope="col" class={c.numeric ? "num" : undefined} aria-sort={on ? (order.down ? "descending" : "ascending") : undefined}>
                  {c.key ? (
                    <button type="button" onClick={() => sort(c)}>
                      {c.title}
                      <i aria-hidden="true">{on ? (order.down ? "▼" : "▲") : ""}</i>
                    </button>
                  ) : (
                    c.title
                  )}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, drawn).map((row) => (
            <tr key={id(row)}>
              {columns.map((c, i) => {
                const cls = [c.numeric ? "num" : "", c.className ?? ""].join(" ").trim() || undefined;
                return i === 0 ? (
                  <th key={c.id} scope="row" class={cls}>
                    {c.cell(row)}
                  </th>
                ) : (
                  <td key={c.id} class={cls}>
                    {c.cell(row)}
                  </td>
                );
              })}
            </tr>
          ))}
          {rest > 0 && <More rest={rest} columns={columns.length} draw={draw} />}
        </tbody>
      </table>
    </div>
  );
}

/** More is the last row of a table that is not drawn to its end. */
function More({ rest, columns, draw }: { rest: number; columns: number; draw: () => void }): JSX.Element {
  const row = useRef<HTMLTableRowElement>(null);
  useEffect(() => {
    const end = row.current;
    if (!end) return undefined;
    const near = new IntersectionObserver(
      (seen) => {
        if (seen.some((e) => e.isIntersecting)) draw();
      },
      { rootMargin: "400px" },
    );
    near.observe(end);
    return () => near.disconnect();
    // Observed anew after each step: the end may still be in sight.
  }, [rest, draw]);
  return (
    <tr ref={row}>
      <td colSpan={columns}>
        <button type="button" onClick={draw}>
          Show more of {rest}
        </button>
      </td>
    </tr>
  );
}
