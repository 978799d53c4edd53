package config

import "maps"

// lack is a field of Istio's API that has no effect here.
type lack struct {
	severity Severity
	advice   string // what follows the field's path in a finding
}

// undone is a field that asks for something that is not done.
func undone(advice string) lack { return lack{Warning, "is not implemented: " + advice} }

// needless is a field without which nothing is lost.
func needless(why string) lack { return lack{Info, "has no effect: " + why} }

// lacks are the fields of Istio's API that have no effect, by kind and path (of
// the spec, without indexes and keys). What is below one is not named again.
// Together with the fields that are read they are all that the API has: a test
// walks it, so that a field of a newer API is decided upon before it is taken in.
var lacks = map[string]map[string]lack{
	"VirtualService": {
		"http.match.statPrefix":  needless("it names a statistic of Envoy's"),
		"tcp.match.sourceSubnet": undone("Istio, too, has dropped it; use sourceLabels or sourceNamespace"),
	},
	"DestinationRule": destinationLacks(),
	"ServiceEntry": {
		"endpoints.network": undone(networks),
	},
	"WorkloadEntry": {
		"network": undone(networks),
	},
	"Sidecar": {
		"ingress.port.targetPort":           needless("Istio ignores it, too"),
		"ingress.bind":                      undone("connections are taken by the redirect, at every address"),
		"ingress.captureMode":               undone("connections are taken by the redirect; to leave a port out, annotate pods with traffic.sidecar.istio.io/excludeInboundPorts"),
		"ingress.tls":                       undone("the mesh's own TLS is taken; let a gateway end that of strangers"),
		"ingress.connectionPool":            undone("to hold callers to a limit write a RateLimit (traffic.seine.dev/v1), or connectionPool in the DestinationRule of the service"),
		"inboundConnectionPool":             undone("to hold callers to a limit write a RateLimit (traffic.seine.dev/v1), or connectionPool in the DestinationRule of the service"),
		"egress.port.targetPort":            needless("Istio ignores it, too"),
		"egress.bind":                       undone("connections are taken by the redirect, at every address"),
		"egress.captureMode":                undone("connections are taken by the redirect; to leave some out, annotate pods with traffic.sidecar.istio.io/excludeOutboundPorts or excludeOutboundIPRanges"),
		"outboundTrafficPolicy.egressProxy": undone("what is outside goes there directly; to send a host through a gateway, route it there by a ServiceEntry and a VirtualService"),
	},
	"PeerAuthentication": {},
	"AuthorizationPolicy": {
		"targetRef":  undone("it selects waypoints and gateways, which there are none of; use selector"),
		"targetRefs": undone("they select waypoints and gateways, which there are none of; use selector"),
		"provider":   needless("it belongs to the action CUSTOM, which is refused"),
	},
	"Telemetry": {
		"targetRef":                            undone("it selects waypoints, which there are none of; use selector"),
		"targetRefs":                           undone("they select waypoints, which there are none of; use selector"),
		"tracing.useRequestIdForTraceSampling": needless("x-request-id never decides what is sampled"),
		"metrics":                              undone("Istio's metrics have all their labels here; drop or rename them where they are scraped (metric_relabel_configs)"),
		"accessLogging":                        undone("the access log is one setting for the mesh, MeshConfig's accessLogFile and accessLogEncoding"),
	},
	"MeshConfig": meshConfigLacks,
}

const networks = "there is one network; an address must be reachable from every workload"

func destinationLacks() map[string]lack {
	policy := map[string]lack{
		"connectionPool.http.http2KeepAlive": undone("write connectionPool.tcp.tcpKeepalive, which finds dead peers, too"),
		"loadBalancer.zoneAwareLbSetting":    undone("write localityLbSetting"),
	}
	out := map[string]lack{}
	for _, prefix := range []string{"trafficPolicy.", "subsets.trafficPolicy."} {
		for name, l := range policy {
			out[prefix+name], out[prefix+"portLevelSettings."+name] = l, l
		}
		maps.Copy(out, map[string]lack{
			prefix + "tunnel":                     undone("requests go to the destination itself; to go through a proxy, name the proxy as the destination"),
			prefix + "retryBudget.budgetInterval": needless("the budget is of what is under way at once, as Envoy's is by default"),
		})
	}
	return out
}

// lackOf is what is said of a field that is not read.
func lackOf(kind, pattern string) lack {
	if kind == kindAnnotation {
		kind, pattern = "MeshConfig", "defaultConfig.tracing."+pattern
	}
	if l, ok := lacks[kind][pattern]; ok {
		return l
	}
	return lack{Warning, "is not implemented in this version"}
}
