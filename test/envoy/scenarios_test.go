//go:build envoy

package envoy

import (
	"net/netip"
	"slices"
	"strings"
)

// scenario is a piece of Istio configuration, what Istio's control plane makes of it
// for Envoy, and what is asked of both.
type scenario struct {
	name string
	http string // http of the VirtualService, a YAML list; "": there is none
	rule string // trafficPolicy of the DestinationRule; "": there is none
	// Envoy's: the routes of the virtual host and further fields of the cluster.
	routes, cluster string
	roundRobin      bool

	servers []string // "app", "dead" or "app:SCRIPT"; one app if nil
	calls   []call

	endpoints []netip.AddrPort // of servers
}

func (s *scenario) host() string { return s.name + ".example" }

// call is one request, on a connection of its own.
type call struct {
	name string
	head string // request line and fields; GET / if "". HOST is the scenario's
	body string // as it goes over the wire
	app  string // the script
	// times is how often it is sent one after the other; 0: once.
	times int
	// differs names the parts that Seine has otherwise on purpose ("*": the whole), and
	// why.
	differs map[string]string
}

// Why Seine differs, where it does so in more than one call.
const (
	keepsTrailers = "trailers are passed on where both ends speak HTTP/1.1; Envoy drops them unless told otherwise"
	addsLength    = "a request without content says so by having none (RFC 9112 §6.3); Envoy adds content-length: 0"
	namesTE       = "TE is named by Connection (RFC 9110 §10.1.4)"
	notNormal     = "paths are matched and passed on as they come: MeshConfig's pathNormalization is not done"
	plainGRPC     = "gRPC is HTTP/2: over HTTP/1.1 it is a request like others"
)

// retries is a scenario in which a route retries on the given conditions.
func retries(name, on, codes string, calls ...call) *scenario {
	envoyOn, written := on, on
	if codes != "" {
		envoyOn += ",retriable-status-codes"
		written += "," + codes
		codes = ", retriable_status_codes: [" + codes + "]"
	}
	return &scenario{
		name: name, calls: calls, servers: []string{"app", "app"}, rule: once, cluster: envoyOnce,
		http:   `- {route: [{destination: {host: HOST}}], timeout: 5s, retries: {attempts: 2, retryOn: "` + written + `", perTryTimeout: 200ms}}`,
		routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 5s, max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}, retry_policy: {retry_on: "` + envoyOn + `", num_retries: 2, per_try_timeout: 0.2s` + codes + `, PREVIOUSHOSTS}}}`,
	}
}

// A kept connection that ends under a request is another matter than a try that fails:
// see oddities.
const (
	once      = `connectionPool: {http: {maxRequestsPerConnection: 1}}`
	envoyOnce = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: {max_requests_per_connection: 1}}}`
)

// failures are the ways in which a try ends badly, each once and for good.
var failures = []call{
	{name: "500 once", app: "500;200"},
	{name: "500 always", app: "500"},
	{name: "502 once", app: "502;200"},
	{name: "503 once", app: "503;200"},
	{name: "503 always", app: "503"},
	{name: "504 once", app: "504;200"},
	{name: "409 once", app: "409;200"},
	{name: "418 once", app: "418;200"},
	{name: "429 rate limited once", app: "429 x-envoy-ratelimited: true;200"},
	{name: "reset once", app: "reset;200"},
	{name: "reset always", app: "reset"},
	{name: "closed once", app: "close;200"},
	{name: "silent once", app: "hang;200"},
	{name: "silent always", app: "hang"},
	{name: "POST 503 once", head: "POST /pay HTTP/1.1\ncontent-length: 3", body: "abc", app: "503;200"},
	{name: "unavailable once", app: "200 grpc-status: 14;200"},
	{name: "cancelled once", app: "200 grpc-status: 1;200"},
	{name: "internal once", app: "200 grpc-status: 13;200"},
	{name: "exhausted once", app: "200 grpc-status: 8;200"},
	{name: "deadline once", app: "200 grpc-status: 4;200"},
	{name: "garbage once", app: `raw:garbage\r\n\r\n;200`},
	{name: "two lengths once", app: `raw:HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab;200`},
}

var overloaded = call{name: "503 overloaded once", app: "503 x-envoy-overloaded: true;200", differs: map[string]string{"*": "who says that it is overloaded is not asked again"}}

// oddities are corners of HTTP/1.1 through a route that says nothing.
var oddities = []call{
	{name: "GET"},
	{name: "HEAD", head: "HEAD / HTTP/1.1"},
	{name: "OPTIONS *", head: "OPTIONS * HTTP/1.1", differs: map[string]string{"*": "a request for the server as a whole goes where its Host leads (RFC 9110 §9.3.7); Envoy has no route for it"}},
	{name: "204", app: "204"},
	{name: "304", app: "304 etag: x"},
	{name: "404", app: "404"},
	{name: "POST with a length", head: "POST / HTTP/1.1\ncontent-length: 3", body: "abc"},
	{name: "POST in chunks", head: "POST / HTTP/1.1\ntransfer-encoding: chunked", body: "3\r\nabc\r\n0\r\n\r\n"},
	{name: "POST in chunks with trailers", head: "POST / HTTP/1.1\ntransfer-encoding: chunked\ntrailer: x-sum", body: "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", differs: map[string]string{"app trailers": keepsTrailers}},
	{name: "POST without a length", head: "POST / HTTP/1.1", differs: map[string]string{"app content-length": addsLength}},
	{name: "answer in chunks", app: `raw:HTTP/1.1 200 OK\r\nx-app: yes\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`},
	{name: "answer in chunks with trailers", app: `raw:HTTP/1.1 200 OK\r\nx-app: yes\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n`, differs: map[string]string{"trailers": keepsTrailers}},
	{name: "answer until the close", app: `raw:HTTP/1.1 200 OK\r\nx-app: yes\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc`},
	{name: "103", app: `raw:HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-app: yes\r\ncontent-length: 2\r\n\r\nok`, differs: map[string]string{"interim": "interim answers are passed on (RFC 9110 §15.2)"}},
	{name: "expect", head: "POST / HTTP/1.1\ncontent-length: 3\nexpect: 100-continue", body: "abc", differs: map[string]string{"app expect": "the application itself is asked whether it wants the body; Envoy says so in its name"}},
	{name: "connection names fields", head: "GET / HTTP/1.1\nconnection: keep-alive, x-hop\nx-hop: 1\nx-stays: 1"},
	{name: "hop by hop", head: "GET / HTTP/1.1\nkeep-alive: timeout=5\nproxy-connection: keep-alive\nte: trailers", differs: map[string]string{"app connection": namesTE}},
	{name: "te gzip", head: "GET / HTTP/1.1\nte: gzip"},
	{name: "hop by hop of the answer", app: "200 keep-alive: timeout=5|connection: x-hop|x-hop: 1|proxy-authenticate: Basic", differs: map[string]string{"answer x-hop": "what Connection names ends here, in answers too (RFC 9110 §7.6.1)"}},
	{name: "HTTP/1.0", head: "GET / HTTP/1.0", differs: map[string]string{"*": "HTTP/1.0 is served; Istio has Envoy refuse it unless PILOT_HTTP10 is set"}},
	{name: "close asked", head: "GET / HTTP/1.1\nconnection: close"},
	{name: "absolute form", head: "GET http://HOST:8080/abs?x=1 HTTP/1.1"},
	{name: "Host in capitals", head: "GET / HTTP/1.1\nhost-is: OTHERCASE:8080"},
	{name: "duplicate fields", head: "GET / HTTP/1.1\nx-a: 1\nx-a: 2\naccept: a\naccept: b", differs: map[string]string{"app accept": "fields stay as they came; Envoy joins those that it knows"}},
	{name: "cookies", head: "GET / HTTP/1.1\ncookie: a=1\ncookie: b=2"},
	{name: "names in capitals", head: "GET / HTTP/1.1\nX-CamelCase: Yes"},
	{name: "empty value", head: "GET / HTTP/1.1\nx-empty:"},
	{name: "dots and double slashes", head: "GET /a/../b//c/./d?q=/../ HTTP/1.1", differs: map[string]string{"app line": notNormal}},
	{name: "escaped slash", head: "GET /a%2fb%2Fc HTTP/1.1"},
	{name: "escaped letters", head: "GET /%61%7e%20 HTTP/1.1", differs: map[string]string{"app line": notNormal}},
	{name: "backslash", head: `GET /a\b HTTP/1.1`, differs: map[string]string{"*": "no such target is allowed (RFC 3986 §3.3); Envoy makes it a slash"}},
	{name: "fragment", head: "GET /a#b HTTP/1.1"},
	{name: "underscore in a name", head: "GET / HTTP/1.1\nx_under: 1"},
	{name: "x-envoy fields of the caller", head: "GET / HTTP/1.1\nx-envoy-internal: true\nx-envoy-attempt-count: 9\nx-envoy-original-path: /x\nx-envoy-decorator-operation: x\nx-envoy-external-address: 1.2.3.4\nx-envoy-downstream-service-cluster: x"},
	{name: "x-forwarded of the caller", head: "GET / HTTP/1.1\nx-forwarded-for: 1.2.3.4\nx-forwarded-proto: https\nx-forwarded-host: x\nforwarded: for=1.2.3.4"},
	{name: "x-request-id of the caller", head: "GET / HTTP/1.1\nx-request-id: 7c2f0e3c-8cc0-9b1e-8b4d-000000000000"},
	{name: "x-forwarded-client-cert of the caller", head: "GET / HTTP/1.1\nx-forwarded-client-cert: By=x"},
	{name: "x-envoy fields of the answer", app: "200 x-envoy-upstream-service-time: 9|x-envoy-decorator-operation: x|x-envoy-immediate-health-check-fail: 1|server: mine|date: Mon, 01 Jan 2024 00:00:00 GMT"},
	{name: "timeout by field", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-upstream-rq-timeout-ms: 150", app: "hang"},
	{name: "retry by field", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-retry-on: 5xx", app: "503;200"},
	{name: "retries by number", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-retry-on: 5xx\nx-envoy-max-retries: 3", app: "503;503;503;200"},
	{name: "retriable codes by field", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-retry-on: retriable-status-codes\nx-envoy-retriable-status-codes: 418", app: "418;200"},
	{name: "hedge by field", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-retry-on: 5xx\nx-envoy-upstream-rq-per-try-timeout-ms: 100\nx-envoy-hedge-on-per-try-timeout: true", app: "delay=400;hang", differs: map[string]string{"flags": "URX is of a request that failed"}},
	{name: "gRPC answered 503", head: "POST /s/m HTTP/1.1\ncontent-type: application/grpc\nte: trailers\ncontent-length: 0", app: "503", differs: map[string]string{"app connection": namesTE}},
	{name: "gRPC reset", head: "POST /s/m HTTP/1.1\ncontent-type: application/grpc\nte: trailers\ncontent-length: 0", app: "reset", differs: map[string]string{"*": plainGRPC}},
	{name: "upgrade", head: "GET / HTTP/1.1\nconnection: upgrade\nupgrade: websocket", app: "426", differs: map[string]string{"app connection": "a word for word copy of the field; the names in it have no case", "closes": "a refused upgrade leaves the connection as it was"}},
	{name: "upgrade to another", head: "GET / HTTP/1.1\nconnection: upgrade\nupgrade: h2c", app: "200"},
	{name: "no Host", head: "GET / HTTP/1.1\nhost-is: NONE"},
	{name: "two Hosts", head: "GET / HTTP/1.1\nhost: HOST:8080\nhost: other.example:8080\nhost-is: NONE", differs: map[string]string{"*": "two Hosts are refused (RFC 9112 §3.2); Envoy joins them and finds no route"}},
	{name: "length and chunked", head: "POST / HTTP/1.1\ncontent-length: 3\ntransfer-encoding: chunked", body: "3\r\nabc\r\n0\r\n\r\n"},
	{name: "two lengths", head: "POST / HTTP/1.1\ncontent-length: 3\ncontent-length: 4", body: "abcd"},
	{name: "transfer-encoding gzip", head: "POST / HTTP/1.1\ntransfer-encoding: gzip, chunked", body: "0\r\n\r\n"},
	{name: "space before the colon", head: "GET / HTTP/1.1\nx-a : 1"},
	{name: "unknown method", head: "FROB / HTTP/1.1", differs: map[string]string{"*": "methods are open (RFC 9110 §9.1)"}},
	{name: "unknown version", head: "GET / HTTP/1.9", differs: map[string]string{"*": "a minor version that is not known is served as HTTP/1.1 (RFC 9110 §2.5)"}},
	{name: "503", app: "503"},
	{name: "reset", app: "reset", differs: map[string]string{"tries": "a request that meets the end of a kept connection is sent once more on a new one, if that is safe"}},
	{name: "closed", app: "close"},
	{name: "garbage", app: `raw:garbage\r\n\r\n`},
	{name: "cut short", app: `raw:HTTP/1.1 200 OK\r\nx-app: yes\r\ncontent-length: 100\r\nconnection: close\r\n\r\nabc`},
}

// all scenarios. What Envoy is given was written by the rules of Istio's control
// plane (pilot/pkg/networking/core/route, .../core/cluster_traffic_policy.go).
func all() []*scenario {
	one := func(name string) []call { return []call{{name: name}} }
	return []*scenario{
		{name: "plain", calls: oddities},
		{name: "dead", servers: []string{"dead"}, calls: append(one("nobody listens"), call{name: "POST to nobody", head: "POST / HTTP/1.1\ncontent-length: 3", body: "abc"})},
		{name: "deads", servers: []string{"dead", "dead", "dead"}, calls: one("nobody listens anywhere")},
		{name: "half-dead", servers: []string{"dead", "app"}, calls: []call{{name: "one of two", times: 4}}},
		retries("retry-5xx", "5xx", "", append(slices.Clone(failures), overloaded)...),
		retries("retry-gateway", "gateway-error", "", append(slices.Clone(failures), overloaded)...),
		retries("retry-reset", "reset", "", failures...),
		retries("retry-before", "reset-before-request", "", failures...),
		retries("retry-connect", "connect-failure,refused-stream", "", failures...),
		retries("retry-4xx", "retriable-4xx", "", failures...),
		retries("retry-codes", "connect-failure", "418", failures...),
		retries("retry-limited", "envoy-ratelimited", "", failures...),
		retries("retry-grpc", "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable", "", failures...),
		{
			name: "retry-off", http: `- {route: [{destination: {host: HOST}}], retries: {attempts: 0}}`,
			routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s}}`, servers: []string{"dead"}, calls: one("no retry"),
		},
		{
			name: "timeout", http: `- {route: [{destination: {host: HOST}}], timeout: 200ms}`,
			routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0.2s, retry_policy: DEFAULTRETRY}}`,
			calls: []call{{name: "in time"}, {name: "too late", app: "hang"}, {name: "shorter by field", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-upstream-rq-timeout-ms: 50", app: "hang"},
				{name: "longer by field", head: "GET / HTTP/1.1\nx-forwarded-for: 10.0.0.1\nx-envoy-upstream-rq-timeout-ms: 3000", app: "delay=400"},
				{name: "gRPC too late", head: "POST /s/m HTTP/1.1\ncontent-type: application/grpc\nte: trailers\ncontent-length: 0", app: "hang", differs: map[string]string{"*": plainGRPC}}},
		},
		{
			name: "try-timeout", http: `- {route: [{destination: {host: HOST}}], timeout: 3s, retries: {attempts: 1, perTryTimeout: 150ms, retryOn: connect-failure}}`,
			routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 3s, retry_policy: {retry_on: connect-failure, num_retries: 1, per_try_timeout: 0.15s, PREVIOUSHOSTS}}}`,
			calls:  []call{{name: "no condition holds", app: "hang"}},
		},
		{
			name: "abort",
			http: `
- match: [{headers: {x-never: {exact: "1"}}}]
  fault: {abort: {httpStatus: 555, percentage: {value: 0}}}
  route: [{destination: {host: HOST}}]
- match: [{headers: {x-grpc: {exact: "1"}}}]
  fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
  route: [{destination: {host: HOST}}]
- match: [{headers: {x-both: {exact: "1"}}}]
  fault: {abort: {httpStatus: 503, percentage: {value: 100}}, delay: {fixedDelay: 50ms, percentage: {value: 100}}}
  route: [{destination: {host: HOST}}]
- match: [{headers: {x-slow: {exact: "1"}}}]
  fault: {delay: {fixedDelay: 50ms, percentage: {value: 100}}}
  route: [{destination: {host: HOST}}]
- match: [{headers: {x-abort: {exact: "1"}}}]
  fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
  headers: {response: {set: {x-set: a}}}
  route: [{destination: {host: HOST}}]
- route: [{destination: {host: HOST}}]
`,
			routes: faults(
				"x-never", "abort: {http_status: 555, percentage: {numerator: 0, denominator: MILLION}}", "",
				"x-grpc", "abort: {grpc_status: 14, percentage: {numerator: 1000000, denominator: MILLION}}", "",
				"x-both", "delay: {fixed_delay: 0.05s, percentage: {numerator: 1000000, denominator: MILLION}}, abort: {http_status: 503, percentage: {numerator: 1000000, denominator: MILLION}}", "",
				"x-slow", "delay: {fixed_delay: 0.05s, percentage: {numerator: 1000000, denominator: MILLION}}", "",
				"x-abort", "abort: {http_status: 418, percentage: {numerator: 1000000, denominator: MILLION}}", "response_headers_to_add: [{header: {key: x-set, value: a}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}], "),
			calls: []call{{name: "none"}, {name: "never", head: "GET / HTTP/1.1\nx-never: 1"}, {name: "abort", head: "GET / HTTP/1.1\nx-abort: 1"}, {name: "gRPC status", head: "GET / HTTP/1.1\nx-grpc: 1"},
				{name: "gRPC status of gRPC", head: "POST /s/m HTTP/1.1\nx-grpc: 1\ncontent-type: application/grpc\ncontent-length: 0"},
				{name: "delay", head: "GET / HTTP/1.1\nx-slow: 1"}, {name: "delay and abort", head: "GET / HTTP/1.1\nx-both: 1"}},
		},
		{
			name:   "cors",
			http:   `- {route: [{destination: {host: HOST}}], corsPolicy: {allowOrigins: [{exact: "http://a.example"}, {prefix: "http://pre"}, {regex: "http://r[0-9]+"}], allowMethods: [GET, PUT], allowHeaders: [x-one, x-two], exposeHeaders: [x-out], maxAge: 24h, allowCredentials: true}}`,
			routes: corsRoute(`allow_origin_string_match: [{exact: "http://a.example"}, {prefix: "http://pre"}, {safe_regex: {regex: "http://r[0-9]+"}}], allow_methods: "GET,PUT", allow_headers: "x-one,x-two", expose_headers: x-out, max_age: "86400", allow_credentials: true, filter_enabled: {default_value: {numerator: 100, denominator: HUNDRED}}, forward_not_matching_preflights: true`),
			calls: []call{
				{name: "no origin"},
				{name: "preflight", head: "OPTIONS / HTTP/1.1\norigin: http://a.example\naccess-control-request-method: PUT"},
				{name: "preflight by prefix", head: "OPTIONS / HTTP/1.1\norigin: http://prefix.example\naccess-control-request-method: PUT"},
				{name: "preflight by regex", head: "OPTIONS / HTTP/1.1\norigin: http://r12\naccess-control-request-method: GET"},
				{name: "preflight of a stranger", head: "OPTIONS / HTTP/1.1\norigin: http://b.example\naccess-control-request-method: PUT", differs: map[string]string{"app content-length": addsLength}},
				{name: "OPTIONS without method", head: "OPTIONS / HTTP/1.1\norigin: http://a.example", differs: map[string]string{"app content-length": addsLength}},
				{name: "request", head: "GET / HTTP/1.1\norigin: http://a.example"},
				{name: "request of a stranger", head: "GET / HTTP/1.1\norigin: http://b.example"},
				{name: "the application's own fields", head: "GET / HTTP/1.1\norigin: http://a.example", app: "200 access-control-allow-origin: *|access-control-expose-headers: mine"},
			},
		},
		{
			name: "headers",
			http: `
- headers:
    request: {set: {x-route: set, x-both: route, host: set.example}, add: {x-list: route}, remove: [x-gone, x-app2]}
    response: {set: {x-route: set, x-both: route}, add: {x-list: route}, remove: [x-gone, x-app2]}
  route:
  - destination: {host: HOST}
    headers:
      request: {set: {x-dest: set, x-both: dest}, add: {x-list: dest}, remove: [x-out]}
      response: {set: {x-dest: set, x-both: dest}, add: {x-list: dest}, remove: [x-out]}
    weight: 100
`,
			// Istio joins a lone destination's operations to the route's.
			routes: `- {match: {prefix: /}, ` + headerOps("x-gone, x-app2, x-out", "x-both: route", "x-route: set", "x-both: dest", "x-dest: set", "x-list+ route", "x-list+ dest") + `, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, host_rewrite_literal: set.example}}`,
			calls:  headerCalls,
		},
		{
			name: "headers-weighted",
			http: `
- headers:
    request: {set: {x-route: set, x-both: route}, add: {x-list: route}, remove: [x-gone]}
    response: {set: {x-route: set, x-both: route}, add: {x-list: route}, remove: [x-gone]}
  route:
  - {destination: {host: HOST}, weight: 50, headers: {request: {set: {x-dest: set, x-both: dest}, add: {x-list: dest}, remove: [x-out, x-route]}, response: {set: {x-dest: set, x-both: dest}, add: {x-list: dest}, remove: [x-out, x-route]}}}
  - {destination: {host: HOST}, weight: 50, headers: {request: {set: {x-dest: set, x-both: dest}, add: {x-list: dest}, remove: [x-out, x-route]}, response: {set: {x-dest: set, x-both: dest}, add: {x-list: dest}, remove: [x-out, x-route]}}}
`,
			routes: `- {match: {prefix: /}, ` + headerOps("x-gone", "x-both: route", "x-route: set", "x-list+ route") + `, route: {timeout: 0s, retry_policy: DEFAULTRETRY, weighted_clusters: {clusters: [` +
				`{name: CLUSTER, weight: 50, ` + headerOps("x-out, x-route", "x-both: dest", "x-dest: set", "x-list+ dest") + `}, ` +
				`{name: CLUSTER, weight: 50, ` + headerOps("x-out, x-route", "x-both: dest", "x-dest: set", "x-list+ dest") + `}]}}}`,
			calls: headerCalls,
		},
		{
			name: "rewrite",
			http: `
- match: [{uri: {prefix: /old/}}]
  rewrite: {uri: /new/}
  route: [{destination: {host: HOST}}]
- match: [{uri: {prefix: /strip}}]
  rewrite: {uri: /}
  route: [{destination: {host: HOST}}]
- match: [{uri: {exact: /exact}}]
  rewrite: {uri: /is}
  route: [{destination: {host: HOST}}]
- match: [{uri: {prefix: /host}}]
  rewrite: {authority: other.example}
  route: [{destination: {host: HOST}}]
- match: [{uri: {prefix: /re/}}]
  rewrite: {uriRegexRewrite: {match: "/re/([a-z]+)/([0-9]+)", rewrite: '/\2/\1'}}
  route: [{destination: {host: HOST}}]
- match: [{uri: {regex: "/any/.*"}}]
  rewrite: {uri: /whole}
  route: [{destination: {host: HOST}}]
- route: [{destination: {host: HOST}}]
`,
			routes: `
- {match: {prefix: /old/}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, prefix_rewrite: /new/}}
- {match: {prefix: /strip}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, prefix_rewrite: /}}
- {match: {path: /exact}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, prefix_rewrite: /is}}
- {match: {prefix: /host}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, host_rewrite_literal: other.example}}
- {match: {prefix: /re/}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, regex_rewrite: {pattern: {regex: "/re/([a-z]+)/([0-9]+)"}, substitution: '/\2/\1'}}}
- {match: {safe_regex: {regex: "/any/.*"}}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY, regex_rewrite: {pattern: {regex: ".*"}, substitution: /whole}}}
- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}}
`,
			calls: paths("/old/a?b=/old/", "/old/", "/oldish", "/strip", "/strip/", "/strip/a?b", "/stripes", "/exact?q=1", "/exact/x", "/host/x", "/re/abc/12?q", "/re/abc/12/re/d/3", "/re/none", "/any/thing?q=1", "/other"),
		},
		{
			name: "redirect",
			http: `
- match: [{uri: {prefix: /a}}]
  redirect: {uri: /b}
- match: [{uri: {prefix: /c}}]
  redirect: {authority: other.example, redirectCode: 308}
- match: [{uri: {prefix: /d}}]
  redirect: {scheme: https, port: 8443}
- match: [{uri: {prefix: /e}}]
  redirect: {uri: /f, authority: other.example, scheme: https, redirectCode: 307}
- match: [{uri: {prefix: /g}}]
  directResponse: {status: 418, body: {string: "short and stout"}}
  headers: {response: {set: {x-set: a}}}
- match: [{uri: {prefix: /h}}]
  directResponse: {status: 204}
- route: [{destination: {host: HOST}}]
`,
			routes: `
- {match: {prefix: /a}, redirect: {path_redirect: /b}}
- {match: {prefix: /c}, redirect: {host_redirect: other.example, response_code: PERMANENT_REDIRECT}}
- {match: {prefix: /d}, redirect: {scheme_redirect: https, port_redirect: 8443}}
- {match: {prefix: /e}, redirect: {path_redirect: /f, host_redirect: other.example, scheme_redirect: https, response_code: TEMPORARY_REDIRECT}}
- {match: {prefix: /g}, direct_response: {status: 418, body: {inline_string: "short and stout"}}, response_headers_to_add: [{header: {key: x-set, value: a}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}
- {match: {prefix: /h}, direct_response: {status: 204}}
- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}}
`,
			calls: append(paths("/a/x?q=1", "/c/x?q=1", "/d/x?q=1", "/e/x?q=1", "/g", "/h"), call{name: "HEAD of a direct response", head: "HEAD /g HTTP/1.1"}),
		},
		{
			name: "no-route", http: `- {match: [{uri: {prefix: /there}}], route: [{destination: {host: HOST}}]}`,
			routes: `- {match: {prefix: /there}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}}`,
			calls:  paths("/there", "/nowhere"),
		},
		{
			name: "eject", roundRobin: true, servers: []string{"app:503", "app"},
			http: `- {route: [{destination: {host: HOST}}], retries: {attempts: 0}}`, routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s}}`,
			rule:    `outlierDetection: {consecutive5xxErrors: 3, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}`,
			cluster: `outlier_detection: {consecutive_5xx: 3, enforcing_consecutive_5xx: 100, enforcing_success_rate: 0, interval: 60s, base_ejection_time: 60s, max_ejection_percent: 100}`,
			calls:   []call{{name: "5xx", times: 12}},
		},
		{
			name: "eject-gateway", roundRobin: true, servers: []string{"app:500;502;500;502;502;502;502", "app"},
			http: `- {route: [{destination: {host: HOST}}], retries: {attempts: 0}}`, routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s}}`,
			rule:    `outlierDetection: {consecutiveGatewayErrors: 2, consecutive5xxErrors: 0, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}`,
			cluster: `outlier_detection: {consecutive_5xx: 0, enforcing_consecutive_5xx: 0, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100, enforcing_success_rate: 0, interval: 60s, base_ejection_time: 60s, max_ejection_percent: 100}`,
			calls:   []call{{name: "502", times: 14}},
		},
		{
			name: "eject-local", roundRobin: true, servers: []string{"dead", "app"},
			http: `- {route: [{destination: {host: HOST}}], retries: {attempts: 0}}`, routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s}}`,
			rule:    `outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}`,
			cluster: `outlier_detection: {split_external_local_origin_errors: true, consecutive_local_origin_failure: 2, enforcing_consecutive_local_origin_failure: 100, consecutive_5xx: 1, enforcing_consecutive_5xx: 100, enforcing_success_rate: 0, enforcing_local_origin_success_rate: 0, interval: 60s, base_ejection_time: 60s, max_ejection_percent: 100}`,
			calls:   []call{{name: "refused", times: 10}},
		},
	}
}

// pool is the scenario of Istio's circuit-breaking task.
func poolScenario() *scenario {
	return &scenario{
		name: "pool", http: `- {route: [{destination: {host: HOST}}], retries: {attempts: 0}}`, routes: `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s}}`,
		rule:    `connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}}`,
		cluster: `circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1, max_requests: 4294967295, max_retries: 4294967295}]}` + "\n" + `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, common_http_protocol_options: {max_requests_per_connection: 1}}}`,
	}
}

// headerOps are Envoy's operations on requests and on responses: what is removed, and
// then, in their order, what is set ("name: value") and added ("name+ value").
func headerOps(remove string, ops ...string) string {
	var list []string
	for _, op := range ops {
		action := "OVERWRITE_IF_EXISTS_OR_ADD"
		name, value, ok := strings.Cut(op, ": ")
		if !ok {
			name, value, _ = strings.Cut(op, "+ ")
			action = "APPEND_IF_EXISTS_OR_ADD"
		}
		list = append(list, `{header: {key: `+name+`, value: `+value+`}, append_action: `+action+`}`)
	}
	all := strings.Join(list, ", ")
	return `request_headers_to_add: [` + all + `], response_headers_to_add: [` + all + `], request_headers_to_remove: [` + remove + `], response_headers_to_remove: [` + remove + `]`
}

var headerCalls = []call{
	{name: "nothing there"},
	{name: "all there", head: "GET / HTTP/1.1\nx-route: mine\nx-both: mine\nx-list: mine\nx-gone: mine\nx-out: mine\nx-dest: mine", app: "200 x-route: mine|x-both: mine|x-list: mine|x-gone: mine|x-out: mine|x-dest: mine"},
	{name: "twice there", head: "GET / HTTP/1.1\nx-both: 1\nx-both: 2\nx-list: 1\nx-list: 2", app: "200 x-both: 1|x-both: 2|x-list: 1|x-list: 2"},
	{name: "an answer of the sidecar's own", head: "POST / HTTP/1.1\ncontent-length: 3", body: "abc", app: "reset"},
}

func paths(all ...string) (out []call) {
	for _, p := range all {
		out = append(out, call{name: p, head: "GET " + p + " HTTP/1.1"})
	}
	return out
}

// faults are routes by a header, each with a fault: name, fault, more fields.
func faults(triples ...string) (out string) {
	for ; len(triples) > 0; triples = triples[3:] {
		out += `- {match: {prefix: /, headers: [{name: ` + triples[0] + `, string_match: {exact: "1"}}]}, ` + triples[2] + `route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}, typed_per_filter_config: {envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, ` + triples[1] + `}}}` + "\n"
	}
	return out + "- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}}"
}

func corsRoute(policy string) string {
	return `- {match: {prefix: /}, route: {cluster: CLUSTER, timeout: 0s, retry_policy: DEFAULTRETRY}, typed_per_filter_config: {envoy.filters.http.cors: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, ` + policy + `}}}`
}
