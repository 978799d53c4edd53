// Links to the pages of things, the same everywhere.

import type { ComponentChildren, JSX } from "preact";
import type { Edge, GraphNode } from "../api/types.ts";
import { hostOf } from "../format.ts";
import { href, route } from "../route.ts";

// The time range goes along.
function kept(): Record<string, string | undefined> {
  return { range: route.value.params.get("range") ?? undefined };
}

export const toService = (host: string): string => href(["service", host], kept());
export const toWorkload = (id: string): string => href(["workload", ...id.split("/", 2)], kept());
export const toEdge = (source: string, service: string): string => href(["edge", ...source.split("/", 2), service], kept());

/** toNode is the page of a node of the graph; what is outside the mesh has none. */
export function toNode(n: GraphNode): string | undefined {
  if (n.kind === "service" && n.host) return toService(n.host);
  const workload = n.workloads[0];
  return n.kind === "workload" && workload ? toWorkload(workload) : undefined;
}

export function ServiceLink({ host, children }: { host: string; children?: ComponentChildren }): JSX.Element {
  return <a href={toService(host)}>{children ?? hostOf(host)}</a>;
}

const known = (id: string): boolean => /^[^/]+\/[^/]+$/.test(id) && !id.startsWith("unknown/");

export function WorkloadLink({ id }: { id: string }): JSX.Element {
  return known(id) ? <a href={toWorkload(id)}>{id}</a> : <span class="soft">{id === "" || id.startsWith("unknown") ? "outside the mesh" : id}</span>;
}

export function EdgeLink({ of: e, children }: { of: Edge; children: ComponentChildren }): JSX.Element {
  return <a href={toEdge(e.source_workload, e.service)}>{children}</a>;
}
