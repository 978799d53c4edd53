package telemetry

import (
	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// Names of metrics. Istio's, so that dashboards made for Istio work unchanged,
// and Seine's own.
const (
	RequestsTotal        = "istio_requests_total"
	RequestDuration      = "istio_request_duration_milliseconds"
	RequestBytes         = "istio_request_bytes"
	ResponseBytes        = "istio_response_bytes"
	TCPSentBytes         = "istio_tcp_sent_bytes_total"
	TCPReceivedBytes     = "istio_tcp_received_bytes_total"
	TCPConnectionsOpened = "istio_tcp_connections_opened_total"
	TCPConnectionsClosed = "istio_tcp_connections_closed_total"
	Build                = "istio_build"

	// FineDuration is the duration of requests in buckets that are fine
	// enough for a quantile below a millisecond; it has the labels of
	// RequestDuration without those of the outcome.
	FineDuration = "seine_request_duration_seconds"
	// NativeDuration is the same as a native histogram of Prometheus, which only
	// its protobuf format has. It has a name of its own as a Prometheus that takes
	// native histograms drops the buckets of the same name, which dashboards read.
	NativeDuration = "seine_request_duration_native_seconds"
	// RouteDuration is the duration of requests by rule (labels route,
	// destination_service, destination_port, classification), in fine buckets, as
	// callers measure it.
	RouteDuration = "seine_route_duration_seconds"
	// OutlierEjectedUntil is when an ejected endpoint returns; it has the labels
	// cluster (Envoy's name), endpoint, address and cause, and a series only
	// while the endpoint is out.
	OutlierEjectedUntil = "seine_outlier_ejected_until_timestamp_seconds"
	// TraceSpans counts spans by what became of them (label outcome).
	TraceSpans = "seine_trace_spans_total"
	// MetricsOverflow counts label sets and outcomes that were folded into
	// an overflow series because a bound was met.
	MetricsOverflow = "seine_metrics_overflow_total"
	// MetricsExpired counts label sets that went because nobody used them.
	MetricsExpired = "seine_metrics_expired_total"
)

// Names of labels.
const (
	LabelReporter                     = "reporter"
	LabelSourceWorkload               = "source_workload"
	LabelSourceCanonicalService       = "source_canonical_service"
	LabelSourceCanonicalRevision      = "source_canonical_revision"
	LabelSourceWorkloadNamespace      = "source_workload_namespace"
	LabelSourcePrincipal              = "source_principal"
	LabelSourceApp                    = "source_app"
	LabelSourceVersion                = "source_version"
	LabelSourceCluster                = "source_cluster"
	LabelDestinationWorkload          = "destination_workload"
	LabelDestinationWorkloadNamespace = "destination_workload_namespace"
	LabelDestinationPrincipal         = "destination_principal"
	LabelDestinationApp               = "destination_app"
	LabelDestinationVersion           = "destination_version"
	LabelDestinationService           = "destination_service"
	LabelDestinationCanonicalService  = "destination_canonical_service"
	LabelDestinationCanonicalRevision = "destination_canonical_revision"
	LabelDestinationServiceName       = "destination_service_name"
	LabelDestinationServiceNamespace  = "destination_service_namespace"
	LabelDestinationCluster           = "destination_cluster"
	LabelRequestProtocol              = "request_protocol"
	LabelResponseCode                 = "response_code"
	LabelGRPCStatus                   = "grpc_response_status"
	LabelResponseFlags                = "response_flags"
	LabelSecurityPolicy               = "connection_security_policy"
	LabelRoute                        = "route"            // a RuleID
	LabelDestinationPort              = "destination_port" // of the service
	LabelClassification               = "classification"   // success, failure
)

// LatestRevision is the canonical revision of a workload that names none.
const LatestRevision = "latest"

// EachLabel calls f for every label of l in the order of exposition. What is
// not known is "unknown"; no value is empty. The labels of an outcome
// (response_code, grpc_response_status, response_flags) are not among them.
func (l *RequestLabels) EachLabel(f func(name, value string)) {
	src, dst := l.Source, l.Destination // the getters serve nil
	f(LabelReporter, l.Reporter.String())
	f(LabelSourceWorkload, known(src.GetWorkload()))
	f(LabelSourceCanonicalService, known(src.GetCanonicalService()))
	f(LabelSourceCanonicalRevision, revision(src))
	f(LabelSourceWorkloadNamespace, known(src.GetNamespace()))
	f(LabelSourcePrincipal, l.principal(src))
	f(LabelSourceApp, known(src.GetApp()))
	f(LabelSourceVersion, known(src.GetVersion()))
	f(LabelSourceCluster, known(src.GetCluster()))
	f(LabelDestinationWorkload, known(dst.GetWorkload()))
	f(LabelDestinationWorkloadNamespace, known(dst.GetNamespace()))
	f(LabelDestinationPrincipal, l.principal(dst))
	f(LabelDestinationApp, known(dst.GetApp()))
	f(LabelDestinationVersion, known(dst.GetVersion()))
	f(LabelDestinationService, known(l.Service))
	f(LabelDestinationCanonicalService, known(dst.GetCanonicalService()))
	f(LabelDestinationCanonicalRevision, revision(dst))
	f(LabelDestinationServiceName, known(l.ServiceName))
	f(LabelDestinationServiceNamespace, known(l.ServiceNamespace))
	f(LabelDestinationCluster, known(dst.GetCluster()))
	f(LabelRequestProtocol, known(l.Protocol))
	f(LabelSecurityPolicy, l.Security.String())
}

func (l *RequestLabels) principal(w *seinev1.Workload) string {
	if l.Plaintext || l.Security == SecurityNone {
		return Unknown
	}
	return known(w.GetIdentity())
}

func revision(w *seinev1.Workload) string {
	switch {
	case w == nil:
		return Unknown
	case w.GetCanonicalRevision() == "":
		return LatestRevision
	}
	return w.GetCanonicalRevision()
}

func known(s string) string {
	if s == "" {
		return Unknown
	}
	return s
}
