package grafana

// What most queries are narrowed by. Requests are counted by both sidecars; the
// destination's count has the protection of the connection, the source's sees
// what never arrived.
const (
	source      = `reporter="source"`
	destination = `reporter="destination"`
	toService   = `destination_service=~"$service"`
	toWorkload  = `destination_workload_namespace=~"$namespace",destination_workload=~"$workload"`
	byWorkload  = `source_workload_namespace=~"$namespace",source_workload=~"$workload"`
)

// All are the dashboards that Seine ships.
func All() []Dashboard {
	return []Dashboard{mesh(), service(), workload(), controlPlane(), infrastructure()}
}

// requests, success and latency are the golden signals of what match selects.
func requests(match, by string) string {
	return "sum by (" + by + ") (rate(istio_requests_total{" + match + "}[$__rate_interval]))"
}

func success(match, by string) string {
	return "sum by (" + by + `) (rate(istio_requests_total{` + match + `,response_code!~"5.."}[$__rate_interval])) / ` + requests(match, by)
}

func latency(q, match, by string) string {
	if by != "" {
		by = ", " + by
	}
	return "histogram_quantile(" + q + ", sum by (le" + by + ") (rate(seine_request_duration_seconds_bucket{" + match + "}[$__rate_interval])))"
}

func mesh() Dashboard {
	return Dashboard{
		UID: "seine-mesh", Title: "Seine: mesh", Description: "All services at a glance.",
		Rows: []Row{
			{"The mesh", []Panel{
				{Title: "Requests", Kind: Number, Unit: "reqps", Queries: []Query{{Expr: "sum(rate(istio_requests_total{" + destination + "}[$__rate_interval]))"}}},
				{Title: "Success", Kind: Number, Unit: "percentunit", Description: "Share of requests that no server failed.",
					Queries: []Query{{Expr: `sum(rate(istio_requests_total{` + destination + `,response_code!~"5.."}[$__rate_interval])) / sum(rate(istio_requests_total{` + destination + `}[$__rate_interval]))`}}},
				{Title: "P99", Kind: Number, Unit: "s", Queries: []Query{{Expr: latency("0.99", source, "")}}},
				{Title: "Mutual TLS", Kind: Number, Unit: "percentunit", Description: "Share of requests that came encrypted, from a known identity.",
					Queries: []Query{{Expr: `sum(rate(istio_requests_total{` + destination + `,connection_security_policy="mutual_tls"}[$__rate_interval])) / sum(rate(istio_requests_total{` + destination + `}[$__rate_interval]))`}}},
				{Title: "Proxies", Kind: Number, Unit: "short", Queries: []Query{{Expr: `count(istio_build{component="proxy"})`}}},
				{Title: "Slower than usual", Kind: Number, Unit: "short", Description: "Services and edges; seine diagnose says why.",
					Queries: []Query{{Expr: "sum(seine_diagnosis_active) or vector(0)"}}},
			}},
			{"Services", []Panel{
				{Title: "Requests by service", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(destination, "destination_service"), Legend: "{{destination_service}}"}}},
				{Title: "Success by service", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: success(source, "destination_service"), Legend: "{{destination_service}}"}}},
				{Title: "P50 by service", Kind: Graph, Unit: "s", Queries: []Query{{Expr: latency("0.5", source, "destination_service"), Legend: "{{destination_service}}"}}},
				{Title: "P99 by service", Kind: Graph, Unit: "s", Queries: []Query{{Expr: latency("0.99", source, "destination_service"), Legend: "{{destination_service}}"}}},
				{Title: "Answers by code and flag", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(source, "response_code, response_flags"), Legend: "{{response_code}} {{response_flags}}"}}},
				{Title: "Opaque connections: bytes", Kind: Graph, Unit: "Bps", Queries: []Query{
					{Expr: "sum by (destination_service) (rate(istio_tcp_sent_bytes_total{" + source + "}[$__rate_interval]))", Legend: "{{destination_service}} sent", Quiet: true},
					{Expr: "sum by (destination_service) (rate(istio_tcp_received_bytes_total{" + source + "}[$__rate_interval]))", Legend: "{{destination_service}} received", Quiet: true}}},
			}},
		},
	}
}

func service() Dashboard {
	match := source + "," + toService
	served := destination + "," + toService
	return Dashboard{
		UID: "seine-service", Title: "Seine: service", Description: "One service: its versions, and who calls it.",
		Variables: []Variable{{Name: "service", Label: "Service", Query: "label_values(istio_requests_total, destination_service)"}},
		Rows: []Row{
			{"Golden signals, as the callers see them", []Panel{
				{Title: "Requests", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(match, "destination_version"), Legend: "{{destination_version}}"}}},
				{Title: "Success", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: success(match, "destination_version"), Legend: "{{destination_version}}"}}},
				{Title: "Latency", Kind: Graph, Unit: "s", Queries: []Query{
					{Expr: latency("0.5", match, "destination_version"), Legend: "{{destination_version}} P50"},
					{Expr: latency("0.9", match, "destination_version"), Legend: "{{destination_version}} P90"},
					{Expr: latency("0.99", match, "destination_version"), Legend: "{{destination_version}} P99"}}},
				{Title: "Share of each version", Kind: Graph, Unit: "percentunit", Queries: []Query{{
					Expr: requests(match, "destination_version") + " / ignoring(destination_version) group_left() sum(rate(istio_requests_total{" + match + "}[$__rate_interval]))", Legend: "{{destination_version}}"}}},
			}},
			{"Where the time passes", []Panel{
				{Title: "P99 behind the server's sidecar: the application alone", Kind: Graph, Unit: "s", Queries: []Query{{Expr: latency("0.99", served, "destination_version"), Legend: "{{destination_version}}"}}},
				{Title: "P99 as each caller sees it", Kind: Graph, Unit: "s", Queries: []Query{{Expr: latency("0.99", match, "source_workload"), Legend: "{{source_workload}}"}}},
			}},
			{"Callers", []Panel{
				{Title: "Requests by caller", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(served, "source_workload, source_workload_namespace, connection_security_policy"), Legend: "{{source_workload}}.{{source_workload_namespace}} {{connection_security_policy}}"}}},
				{Title: "Answers by code and flag", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(match, "response_code, response_flags, grpc_response_status"), Legend: "{{response_code}} {{response_flags}} {{grpc_response_status}}"}}},
				{Title: "Size of requests, P90", Kind: Graph, Unit: "bytes", Queries: []Query{{Expr: "histogram_quantile(0.9, sum by (le, source_workload) (rate(istio_request_bytes_bucket{" + match + "}[$__rate_interval])))", Legend: "{{source_workload}}"}}},
				{Title: "Size of responses, P90", Kind: Graph, Unit: "bytes", Queries: []Query{{Expr: "histogram_quantile(0.9, sum by (le, destination_version) (rate(istio_response_bytes_bucket{" + match + "}[$__rate_interval])))", Legend: "{{destination_version}}"}}},
			}},
			{"Protection", []Panel{
				{Title: "Ejected endpoints", Kind: Graph, Unit: "short", Description: "Taken out of balancing by outlier detection, as the callers' proxies see it.",
					Queries: []Query{{Expr: "sum by (cluster) (seine_outlier_ejections_active)", Legend: "{{cluster}}", Quiet: true}}},
				{Title: "Refused by a circuit breaker", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(match+`,response_flags="UO"`, "source_workload"), Legend: "{{source_workload}}", Quiet: true}}},
			}},
		},
	}
}

func workload() Dashboard {
	in, out := destination+","+toWorkload, source+","+byWorkload
	return Dashboard{
		UID: "seine-workload", Title: "Seine: workload", Description: "One workload: what comes in, what goes out.",
		Variables: []Variable{
			{Name: "namespace", Label: "Namespace", Query: "label_values(istio_requests_total, destination_workload_namespace)"},
			{Name: "workload", Label: "Workload", Query: `label_values(istio_requests_total{destination_workload_namespace=~"$namespace"}, destination_workload)`},
		},
		Rows: []Row{
			{"In", []Panel{
				{Title: "Requests", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(in, "source_workload, connection_security_policy"), Legend: "from {{source_workload}} {{connection_security_policy}}"}}},
				{Title: "Success", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: success(in, "source_workload"), Legend: "from {{source_workload}}"}}},
				{Title: "Latency", Kind: Graph, Unit: "s", Queries: []Query{
					{Expr: latency("0.5", in, "source_workload"), Legend: "from {{source_workload}} P50"},
					{Expr: latency("0.99", in, "source_workload"), Legend: "from {{source_workload}} P99"}}},
				{Title: "Answers", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(in, "response_code, response_flags"), Legend: "{{response_code}} {{response_flags}}"}}},
			}},
			{"Out", []Panel{
				{Title: "Requests", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: requests(out, "destination_service, destination_version"), Legend: "to {{destination_service}} {{destination_version}}"}}},
				{Title: "Success", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: success(out, "destination_service"), Legend: "to {{destination_service}}"}}},
				{Title: "Latency", Kind: Graph, Unit: "s", Queries: []Query{
					{Expr: latency("0.5", out, "destination_service"), Legend: "to {{destination_service}} P50"},
					{Expr: latency("0.99", out, "destination_service"), Legend: "to {{destination_service}} P99"}}},
				{Title: "Retries", Kind: Graph, Unit: "reqps", Queries: []Query{{Expr: "sum(rate(seine_retries_total[$__rate_interval]))", Legend: "retries", Quiet: true}}},
			}},
		},
	}
}

func controlPlane() Dashboard {
	rate := func(metric string) string { return "sum(rate(" + metric + "[$__rate_interval]))" }
	return Dashboard{
		UID: "seine-control-plane", Title: "Seine: control plane", Description: "seined: what it serves, what it refuses, what it costs.",
		Rows: []Row{
			{"Now", []Panel{
				{Title: "Version", Kind: Table, Width: 8, Queries: []Query{{Expr: "sum by (version) (pilot_info)"}}},
				{Title: "Connected proxies", Kind: Number, Unit: "short", Queries: []Query{{Expr: "sum(pilot_xds)"}}},
				{Title: "Generation", Kind: Number, Unit: "short", Queries: []Query{{Expr: "max(seine_config_generation)"}}},
				{Title: "Root certificate ends in", Kind: Number, Unit: "s", Queries: []Query{{Expr: "min(citadel_server_root_cert_expiry_timestamp) - time()"}}},
				{Title: "Next workload certificate ends in", Kind: Number, Unit: "s", Queries: []Query{{Expr: "min(seine_proxy_certificate_expiry_seconds) - time()"}}},
			}},
			{"Configuration", []Panel{
				{Title: "Findings", Kind: Graph, Unit: "short", Queries: []Query{{Expr: "sum by (severity) (seine_config_findings)", Legend: "{{severity}}"}}},
				{Title: "Taken and refused", Kind: Graph, Unit: "short", Queries: []Query{
					{Expr: rate("seine_config_accepted_total"), Legend: "taken"}, {Expr: rate("seine_config_refused_total"), Legend: "refused"}}},
				{Title: "From a change to the proxies, P99", Kind: Graph, Unit: "s", Queries: []Query{{Expr: "histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[$__range])))", Legend: "P99", Quiet: true}}},
				{Title: "Pushes", Kind: Graph, Unit: "short", Queries: []Query{{Expr: "sum by (type) (rate(pilot_xds_pushes[$__rate_interval]))", Legend: "{{type}}"}}},
				{Title: "Refused by proxies", Kind: Graph, Unit: "short", Description: "Any is a fault of Seine's.", Queries: []Query{{Expr: rate("pilot_total_xds_rejects"), Legend: "NACK"}, {Expr: rate("pilot_total_xds_internal_errors"), Legend: "internal"}}},
				{Title: "Certificates", Kind: Graph, Unit: "short", Queries: []Query{{Expr: rate("citadel_server_success_cert_issuance_count"), Legend: "issued"}, {Expr: rate("seine_ca_refused_total"), Legend: "refused"}}},
			}},
			{"Cost", []Panel{
				{Title: "Memory", Kind: Graph, Unit: "bytes", Queries: []Query{{Expr: `process_resident_memory_bytes and on (instance, job) pilot_info`, Legend: "seined"}, {Expr: "avg(process_resident_memory_bytes and on (instance, job) istio_build)", Legend: "a proxy, on average"}}},
				{Title: "CPU", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: `rate(process_cpu_seconds_total[$__rate_interval]) and on (instance, job) pilot_info`, Legend: "seined"}, {Expr: "avg(rate(process_cpu_seconds_total[$__rate_interval]) and on (instance, job) istio_build)", Legend: "a proxy, on average"}}},
				{Title: "Series folded because a bound was met", Kind: Graph, Unit: "short", Queries: []Query{{Expr: rate("seine_metrics_overflow_total"), Legend: "folded"}}},
				{Title: "Proxies without the control plane", Kind: Graph, Unit: "short", Queries: []Query{{Expr: "count(seine_proxy_control_connected == 0) or vector(0)", Legend: "proxies"}}},
			}},
		},
	}
}

func infrastructure() Dashboard {
	machine := ` * on (instance, job) group_left(boot_id) seine_host_info`
	share := func(mode string) string {
		return `max by (boot_id) ((sum by (instance, job) (rate(seine_host_cpu_seconds_total{mode="` + mode + `"}[$__rate_interval])) / sum by (instance, job) (rate(seine_host_cpu_seconds_total[$__rate_interval])))` + machine + `)`
	}
	pressure := func(resource string) string {
		return `max by (boot_id) (rate(seine_host_pressure_seconds_total{resource="` + resource + `",kind="some"}[$__rate_interval])` + machine + `)`
	}
	return Dashboard{
		UID: "seine-infrastructure", Title: "Seine: infrastructure", Description: "Is it my code, or the machine? seine diagnose says it in words.",
		Rows: []Row{
			{"What is slower than usual", []Panel{
				{Title: "By cause", Kind: Graph, Unit: "short", Width: 24, Queries: []Query{{Expr: "sum by (cause, service, version) (seine_diagnosis_active)", Legend: "{{cause}}: {{service}} {{version}}", Quiet: true}}},
			}},
			{"Machines", []Panel{
				{Title: "CPU steal", Kind: Graph, Unit: "percentunit", Description: "Above 1 % sidecars lag, above 2 % it ripples.", Queries: []Query{{Expr: share("steal"), Legend: "{{boot_id}}"}}},
				{Title: "I/O wait", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: share("iowait"), Legend: "{{boot_id}}"}}},
				{Title: "Pressure: CPU", Kind: Graph, Unit: "percentunit", Description: "Share of time in which some task waited.", Queries: []Query{{Expr: pressure("cpu"), Legend: "{{boot_id}}"}}},
				{Title: "Pressure: I/O", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: pressure("io"), Legend: "{{boot_id}}"}}},
				{Title: "Pressure: memory", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: pressure("memory"), Legend: "{{boot_id}}"}}},
				{Title: "CPU idle", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: share("idle"), Legend: "{{boot_id}}"}}},
			}},
			{"Sidecars", []Panel{
				{Title: "Timers that fired 5 ms late or later", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: `rate(seine_process_timer_late_total{over="5ms"}[$__rate_interval]) / ignoring(over) rate(seine_process_timer_checks_total[$__rate_interval])`, Legend: "{{namespace}}/{{pod}}"}}},
				{Title: "Waiting for a CPU", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: "rate(seine_process_runqueue_wait_seconds_total[$__rate_interval])", Legend: "{{namespace}}/{{pod}}"}}},
				{Title: "Periods in which the CPU limit was met", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: "rate(seine_host_cfs_throttled_periods_total[$__rate_interval]) / rate(seine_host_cfs_periods_total[$__rate_interval])", Legend: "{{namespace}}/{{pod}}", Quiet: true}}},
				{Title: "Pauses of the collector", Kind: Graph, Unit: "percentunit", Queries: []Query{{Expr: "rate(seine_process_gc_pause_seconds_total[$__rate_interval])", Legend: "{{namespace}}/{{pod}}"}}},
			}},
		},
	}
}
