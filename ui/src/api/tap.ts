// The lines of /api/v1/tap.

export interface TapParty {
  namespace?: string;
  workload?: string;
  pod?: string;
  version?: string;
  identity?: string;
  address?: string;
}

export interface TapRequest {
  type: "request";
  time: string;
  proxy: string;
  direction: "inbound" | "outbound";
  source: TapParty;
  destination: TapParty;
  service?: string;
  method: string;
  authority?: string;
  path: string;
  protocol?: string;
  grpc?: boolean;
  status: number;
  grpcStatus?: number;
  latencyMs: number;
  upstreamMs?: number;
  requestBytes?: number;
  responseBytes?: number;
  flags?: string;
  reason?: string;
  details?: string;
  cause?: string;
  rule?: string;
  attempts?: number;
  security?: string;
  requestId?: string;
  traceId?: string;
  headers?: { name: string; value?: string; redacted?: boolean }[];
}

export type TapLine =
  | TapRequest
  | { type: "started"; proxies: number; replica?: string }
  | { type: "lost"; limited: number; dropped: number }
  | { type: "alive" }
  | { type: "ended"; error?: string };

/** FILTERS are the parameters that the page offers, as they stand in its address and in the API's. */
export const FILTERS = ["namespace", "workload", "direction", "to", "toNamespace", "from", "fromNamespace", "method", "path", "status", "minLatency"] as const;

/** tapPath writes the API's address for what the page's address says. */
export function tapPath(params: URLSearchParams): string {
  const q = new URLSearchParams();
  for (const f of FILTERS) {
    for (const part of (params.get(f) ?? "").split(f === "method" || f === "status" ? /[\s,]+/ : /\n/)) {
      if (part.trim()) q.append(f, part.trim());
    }
  }
  const text = q.toString();
  return `/api/v1/tap${text ? `?${text}` : ""}`;
}

/** failed says whether somebody would call the request failed: no answer, a server error, or gRPC's. */
export function failed(r: TapRequest): boolean {
  return r.status === 0 || r.status >= 500 || (r.grpc === true && (r.grpcStatus ?? 0) !== 0);
}
