import type { JSX, VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "../parts/icons.tsx";
import { Arranger } from "./arranger.ts";
import { Camera } from "./camera.ts";
import type { Layout, Plan } from "./layout.ts";
import { next, type Spot, type View, type Way } from "./model.ts";
import { edgeMark, heightOf, nodeMark, WIDTH } from "./marks.tsx";

/** LABELLED is the number of services up to which every call has its numbers beside it. */
const LABELLED = 40;
const LABEL = { width: 118, height: 34 };

function planOf(view: View): Plan {
  const label = view.spots.length <= LABELLED;
  return {
    boxes: view.spots.map((s) => ({ id: s.node.id, area: s.node.namespace, width: WIDTH, height: heightOf(s) })),
    wires: view.edges.map((e) => ({ id: e.id, from: e.source, to: e.destination })),
    ...(label ? { label: LABEL } : {}),
  };
}

const arrows: Record<string, Way | undefined> = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

interface Kept {
  key: string;
  mark: VNode;
}

/**
 * Drawing is the graph: one stop of the tab key, arrow keys from node to node,
 * Enter opens, plus, minus and 0 zoom. What did not change since the last answer
 * is not drawn again.
 */
export function Drawing({ view }: { view: View }): JSX.Element {
  const frame = useRef<HTMLDivElement>(null);
  const stage = useRef<SVGGElement>(null);
  const camera = useRef<Camera | null>(null);
  const [layout, setLayout] = useState<Layout | undefined>(undefined);
  const [entry, setEntry] = useState("");
  const [near, setNear] = useState("");
  const arranger = useRef<Arranger | null>(null);
  const marks = useRef(new Map<string, Kept>());

  const plan = planOf(view);
  const shape = JSON.stringify(plan);
  useEffect(() => {
    const a = new Arranger((l) => {
      setLayout(l);
      camera.current?.fit(l.width, l.height);
    });
    arranger.current = a;
    return () => a.close();
  }, []);
  useEffect(() => arranger.current?.arrange(JSON.parse(shape) as Plan), [shape]);
  useEffect(() => {
    if (!frame.current || !stage.current) return;
    const c = new Camera(frame.current, stage.current);
    camera.current = c;
    return () => c.close();
  }, []);

  const reuse = (id: string, key: string, make: () => VNode): VNode => {
    const old = marks.current.get(id);
    if (old?.key === key) return old.mark;
    const mark = make();
    marks.current.set(id, { key, mark });
    return mark;
  };

  // Until the layout of a new node is there, the graph before stays.
  const placed = layout ? view.spots.filter((s) => layout.boxes[s.node.id]) : [];
  const wired = layout ? view.edges.filter((e) => layout.wires[e.id]) : [];
  const first = placed.some((s) => s.node.id === entry) ? entry : (placed[0]?.node.id ?? "");
  const around = near ? new Set(view.edges.filter((e) => e.source === near || e.destination === near).flatMap((e) => [e.source, e.destination, near])) : undefined;

  const keys = (e: KeyboardEvent): void => {
    const c = camera.current;
    if (!layout || !c || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "+" || e.key === "=") c.zoom(1.25);
    else if (e.key === "-") c.zoom(0.8);
    else if (e.key === "0") c.fit(layout.width, layout.height, true);
    else {
      const way = arrows[e.key];
      const id = (document.activeElement as SVGElement | null)?.dataset.id;
      if (!way || !id) return;
      const places = placed.map((s) => placeOf(s, layout));
      const from = places.find((p) => p.id === id);
      const to = from && next(places, from, way);
      if (to) {
        c.show(to.x, to.y);
        stage.current?.querySelector<SVGElement>(`[data-id="${CSS.escape(to.id)}"]`)?.focus({ preventScroll: true });
      }
    }
    e.preventDefault();
  };
  const look = (e: Event): void => {
    const id = (e.target as Element).closest<SVGElement>(".node")?.dataset.id ?? "";
    setNear(id);
    if (e.type === "focusin" && id) setEntry(id);
  };

  // A small graph takes no more of the page than it needs.
  const height = layout && `max(380px, min(100vh - 268px, ${Math.round(layout.height * 1.1 + 130)}px))`;
  return (
    <div class="mesh" ref={frame} style={height ? { height } : undefined}>
      <p class="hidden" id="mesh-help">
        Arrow keys go from service to service, Enter opens one, plus and minus zoom, 0 shows all. The table holds the same.
      </p>
      <svg role="group" aria-label="Services and their calls" aria-describedby="mesh-help" onKeyDown={keys} onFocusIn={look} onFocusOut={() => setNear("")} onMouseOver={look}>
        <defs>
          {["", "bad", "warn"].map((tone) => (
            <marker key={tone} id={`tip${tone}`} class={`edge ${tone}`} viewBox="0 0 10 10" refX={9} refY={5} markerWidth={9} markerHeight={9} markerUnits="userSpaceOnUse" orient="auto">
              <path class="tip" d="M0 1 9.5 5 0 9z" />
            </marker>
          ))}
        </defs>
        <g ref={stage}>
          {layout?.areas.map((a) => (
            <g key={a.name} class="area" aria-hidden="true">
              <rect x={a.x} y={a.y} width={a.width} height={a.height} rx={10} />
              <text x={a.x + 14} y={a.y + 21}>
                {a.name}
              </text>
            </g>
          ))}
          {layout &&
            wired.map((e) => {
              const wire = layout.wires[e.id];
              const lit = near !== "" && (e.source === near || e.destination === near);
              const dim = near !== "" && !lit;
              const labelled = plan.label !== undefined || lit;
              return wire && reuse(e.id, JSON.stringify([e, wire, dim, labelled]), () => edgeMark(e, wire, { dim, labelled }));
            })}
          {layout &&
            placed.map((s) => {
              const at = layout.boxes[s.node.id];
              const dim = around !== undefined && !around.has(s.node.id) && s.node.id !== near;
              const stop = s.node.id === first;
              return at && reuse(s.node.id, JSON.stringify([s, at, dim, stop]), () => nodeMark(s, at, { dim, stop }));
            })}
        </g>
      </svg>
      <div class="legend" aria-hidden="true">
        <span>
          <svg viewBox="0 0 22 8">
            <path d="M0 4h22" stroke="var(--line-strong)" stroke-width="2" />
          </svg>
          calls, thicker with the rate
        </span>
        <span>
          <svg viewBox="0 0 22 8">
            <path d="M0 4h22" stroke="var(--bad)" stroke-width="2" />
          </svg>
          under 99 % succeed
        </span>
        <span>
          <svg viewBox="0 0 22 8">
            <path d="M0 4h22" stroke="var(--warn)" stroke-width="2" />
          </svg>
          not encrypted
        </span>
        <span>
          <svg viewBox="0 0 22 8">
            <path d="M0 4h22" stroke="var(--line-strong)" stroke-width="1.5" stroke-dasharray="3 4" />
          </svg>
          idle
        </span>
      </div>
      <div class="zoom">
        <button type="button" class="button" aria-label="Zoom in" onClick={() => camera.current?.zoom(1.25)}>
          <Icon name="plus" />
        </button>
        <button type="button" class="button" aria-label="Zoom out" onClick={() => camera.current?.zoom(0.8)}>
          <Icon name="minus" />
        </button>
        <button type="button" class="button" aria-label="Show all" onClick={() => layout && camera.current?.fit(layout.width, layout.height, true)}>
          <Icon name="fit" />
        </button>
      </div>
    </div>
  );
}

function placeOf(s: Spot, layout: Layout): { id: string; x: number; y: number } {
  const at = layout.boxes[s.node.id] ?? { x: 0, y: 0 };
  return { id: s.node.id, x: at.x + WIDTH / 2, y: at.y + heightOf(s) / 2 };
}
