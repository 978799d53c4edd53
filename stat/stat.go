// Package stat turns scraped metrics into the table of golden signals that
// `seine stat` and `seine up` show.
//
// What enters: bodies in the Prometheus text format, each with its instance and
// time. What leaves: rates, success, quantiles, shares and the protection of
// each service, version and edge over a window, as values, JSON or text. It
// never scrapes, and it never reads a clock: both come from the caller.
package stat

import "time"

// Values of MTLS: what the servers of an edge received.
const (
	MTLSYes     = "yes"
	MTLSNo      = "no"
	MTLSMixed   = "mixed"   // some connections were plaintext
	MTLSUnknown = "unknown" // no server reported, and the client knows no identity
)

// Table is the golden signals of a mesh over one window.
type Table struct {
	At            time.Time `json:"at"`
	WindowSeconds float64   `json:"window_seconds"` // that were really seen
	Instances     int       `json:"instances"`      // proxies that the rows come from
	Services      []Service `json:"services"`       // by namespace, name, version
	Edges         []Edge    `json:"edges"`          // by destination, source
	// Ejected are endpoints that outlier detection has taken out, by service.
	Ejected []Ejected `json:"ejected,omitempty"`
}

// Traffic is the signals of a row. Requests are HTTP and gRPC.
type Traffic struct {
	RPS      float64  `json:"rps"`
	Requests float64  `json:"requests"`          // in the window
	Success  *float64 `json:"success,omitempty"` // 0..1; absent without requests
	Latency  *Latency `json:"latency,omitempty"` // absent without requests
	TCP      *TCP     `json:"tcp,omitempty"`     // absent without opaque connections
}

// Latency is quantiles in milliseconds.
type Latency struct {
	P50 float64 `json:"p50_ms"`
	P90 float64 `json:"p90_ms"`
	P99 float64 `json:"p99_ms"`
}

// TCP is the signals of opaque connections.
type TCP struct {
	Open              float64 `json:"open"` // now
	OpenedPerSecond   float64 `json:"opened_per_second"`
	SentPerSecond     float64 `json:"sent_bytes_per_second"`     // to the client
	ReceivedPerSecond float64 `json:"received_bytes_per_second"` // from the client
}

// Service is one version of one service, from all of its callers.
type Service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"service"`
	Host      string `json:"host"`
	Version   string `json:"version"` // "unknown" for requests that reached no workload
	Traffic
	Share        float64  `json:"share"` // 0..1, of the service's requests (or connections)
	MTLS         string   `json:"mtls"`
	Sources      []string `json:"sources"`      // identities of callers in the window
	Destinations []string `json:"destinations"` // identities of its own
}

// Party is one end of an edge.
type Party struct {
	Namespace string `json:"namespace"`
	Workload  string `json:"workload"`
	Identity  string `json:"identity,omitempty"` // SPIFFE ID; empty if not known
}

// Edge is one workload's traffic to one version of a service.
type Edge struct {
	Source      Party  `json:"source"`
	Destination Party  `json:"destination"`
	Service     string `json:"service"` // FQDN
	Version     string `json:"version"`
	Traffic
	MTLS string `json:"mtls"`
	// Reporter is the side whose measurements these are: the source where it
	// is in the mesh, for it sees what never arrived.
	Reporter string `json:"reporter"`
}
