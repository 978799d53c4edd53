package plan

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

const (
	http   = seinev1.Protocol_PROTOCOL_HTTP
	tcp    = seinev1.Protocol_PROTOCOL_TCP
	detect = seinev1.Protocol_PROTOCOL_DETECT
)

func ref(kind, namespace, name string) mesh.Ref {
	return mesh.Ref{Kind: kind, Namespace: namespace, Name: name, File: name + ".yaml", Line: 1}
}

func fqdn(name string) string {
	n, ns, _ := strings.Cut(name, ".")
	if ns == "" {
		ns = "default"
	}
	return n + "." + ns + ".svc.cluster.local"
}

func service(name, address string, ports ...mesh.Port) *mesh.Service {
	n, ns, _ := strings.Cut(name, ".")
	if ns == "" {
		ns = "default"
	}
	s := &mesh.Service{Ref: ref("Service", ns, n), Host: fqdn(name), Ports: ports, Selector: map[string]string{"app": n}}
	if address != "" {
		s.Addresses = []netip.Addr{netip.MustParseAddr(address)}
	}
	return s
}

func port(name string, number, target uint32, p seinev1.Protocol) mesh.Port {
	return mesh.Port{Name: name, Number: number, Target: target, Protocol: p}
}

func workload(namespace, instance, address string, labels ...string) *mesh.Workload {
	w := &mesh.Workload{
		Ref: ref("WorkloadEntry", namespace, instance), Instance: instance, App: strings.TrimRight(instance, "-0123456789"),
		ServiceAccount: "sa-" + instance, Sidecar: true, Labels: map[string]string{}, Ports: map[string]uint32{"web": 9090},
	}
	if address != "" {
		w.Addresses = []netip.Addr{netip.MustParseAddr(address)}
	}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		w.Labels[k] = v
	}
	return w
}

func rule(name string, index int32, dest string, match ...*seinev1.HttpMatch) *seinev1.HttpRule {
	return &seinev1.HttpRule{Index: index, Match: match, Source: &seinev1.Ref{Kind: "VirtualService", Namespace: "default", Name: name},
		Destinations: []*seinev1.Destination{{Host: fqdn(dest), Weight: 100}}}
}

func virtual(namespace, name string, hosts string, rules ...*seinev1.HttpRule) *mesh.VirtualService {
	return &mesh.VirtualService{Ref: ref("VirtualService", namespace, name), Hosts: strings.Fields(hosts), Gateways: []string{"mesh"}, HTTP: rules}
}

// fixture is a mesh with a little of everything.
func fixture() mesh.Parts {
	settings := mesh.DefaultSettings()
	settings.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.244.0.0/16")}
	headless := service("db", "", port("tcp", 5432, 0, tcp), port("http", 80, 8080, http))
	headless.Headless = true
	hidden := service("hidden.other", "10.96.0.9", port("http", 80, 8080, http))
	hidden.ExportTo = []string{"."}
	entry := func(name, host string, res seinev1.Service_Resolution, ports ...mesh.Port) *mesh.Service {
		return &mesh.Service{Ref: ref("ServiceEntry", "default", name), Host: host, Ports: ports, Resolution: res, External: true}
	}
	api := entry("api", "api.example.com", seinev1.Service_DNS, port("https", 443, 0, seinev1.Protocol_PROTOCOL_TLS), port("http", 80, 8000, http))
	api.Addresses = []netip.Addr{netip.MustParseAddr("10.96.0.50")}
	api.Endpoints = []mesh.Endpoint{{Address: "api.example.com", Namespace: "default"}}
	wild := entry("wild", "*.wild.com", seinev1.Service_ORIGINAL, port("http", 80, 0, http))
	cidr := entry("cidr", "net.example.com", seinev1.Service_ORIGINAL, port("tcp", 9000, 0, tcp))
	cidr.CIDRs = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}
	mongo := entry("mongo", "mongo.example.com", seinev1.Service_ORIGINAL, port("mongo", 27017, 0, tcp))
	sick := workload("default", "billing-3", "10.244.0.13", "app=billing", "version=v2")
	sick.Unhealthy = true
	bare := workload("default", "billing-4", "10.244.0.14", "app=billing", "version=v2")
	bare.Sidecar = false
	return mesh.Parts{
		Settings: settings,
		Services: []*mesh.Service{
			service("billing", "10.96.0.1", port("http", 80, 8080, http), port("grpc", 81, 8081, seinev1.Protocol_PROTOCOL_GRPC), mesh.Port{Name: "named", Number: 82, TargetName: "web", Protocol: detect}),
			service("ledger", "10.96.0.2", port("tcp", 7000, 0, tcp)),
			service("billing.other", "10.96.0.3", port("http", 80, 8080, http)),
			service("one", "10.96.0.4", port("http", 8888, 0, http)),
			headless, hidden, api, wild, cidr, mongo,
		},
		Workloads: []*mesh.Workload{
			workload("default", "frontend-1", "10.244.0.1", "app=frontend", "team=a"),
			workload("default", "billing-1", "10.244.0.11", "app=billing", "version=v1"),
			workload("default", "billing-2", "10.244.0.12", "app=billing", "version=v1"),
			sick, bare,
			workload("default", "db-0", "10.244.0.20", "app=db"),
			workload("default", "ledger-1", "10.244.0.30", "app=ledger"),
			workload("default", "ledger-vm", "172.16.0.7", "app=ledger"),
			workload("other", "client", "10.244.1.1", "app=client"),
		},
	}
}

func snapshot(parts mesh.Parts) *mesh.Snapshot { return mesh.New(1, parts) }

func caller(s *mesh.Snapshot) *mesh.Workload { return s.Workload("default/frontend-1") }

// short writes an answer in one line.
func short(a *seinev1.Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", a.Kind)
	if a.Kind == seinev1.Answer_ROUTES || a.Protocol != detect {
		fmt.Fprintf(&b, " %s", strings.TrimPrefix(a.Protocol.String(), "PROTOCOL_"))
	}
	if a.Service != "" {
		fmt.Fprintf(&b, " %s", strings.TrimSuffix(a.Service, ".svc.cluster.local"))
	}
	if a.DirectEndpoint != "" {
		fmt.Fprintf(&b, " direct %s/%s", strings.ReplaceAll(a.DirectService, ".svc.cluster.local", ""), a.DirectEndpoint)
	}
	dest := func(list []*seinev1.Destination) string {
		var out []string
		for _, d := range list {
			out = append(out, fmt.Sprintf("%s:%d", strings.TrimSuffix(d.Host, ".svc.cluster.local"), d.Port))
		}
		return strings.Join(out, ",")
	}
	for _, r := range a.Http {
		fmt.Fprintf(&b, " | %s[%d]/%d %s", r.Source.GetName(), r.Index, len(r.Match), dest(r.Destinations))
	}
	for _, r := range a.Tcp {
		fmt.Fprintf(&b, " | tcp %s[%d]/%d %s", r.Source.GetName(), r.Index, len(r.Match), dest(r.Destinations))
	}
	if a.Reason != "" {
		fmt.Fprintf(&b, " (%s)", a.Reason)
	}
	return b.String()
}

func TestAnswerWithoutRoutes(t *testing.T) {
	for name, want := range map[string]string{
		"http/80/billing":                           "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"http/80/billing.default":                   "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"http/80/billing.default.svc":               "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"http/80/billing.default.svc.cluster.local": "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"http/80/billing.other":                     "ROUTES HTTP billing.other | billing[0]/0 billing.other:80",
		"http/81/billing":                           "ROUTES GRPC billing.default | billing[0]/0 billing.default:81",
		"http/82/billing":                           "ROUTES DETECT billing.default | billing[0]/0 billing.default:82",
		"http/8080/billing":                         "UNKNOWN (billing.default.svc.cluster.local has no port 8080 (it has 80 http, 81 grpc, 82 named))",
		"http/7000/ledger":                          "ROUTES TCP ledger.default | ledger[0]/0 ledger.default:7000",
		"http/80/no.default.svc.cluster.local":      "UNKNOWN (there is no service no.default.svc.cluster.local)",
		"http/80/no.default.svc":                    "UNKNOWN (there is no service no.default.svc.cluster.local)",
		"http/80/hidden.other":                      "UNKNOWN (hidden.other.svc.cluster.local is not exported to namespace default (exportTo of Service \"other/hidden\" (hidden.yaml:1)))",
		"http/80/no":                                "PASSTHROUGH",
		"http/80/www.example.org":                   "PASSTHROUGH",
		"http/80/api.example.com":                   "ROUTES HTTP api.example.com | api[0]/0 api.example.com:80",
		"http/81/api.example.com":                   "UNKNOWN (api.example.com has no port 81 (it has 80 http, 443 https))",
		"http/80/a.wild.com":                        "ROUTES HTTP *.wild.com | wild[0]/0 *.wild.com:80",
		"http/80/db":                                "ROUTES HTTP db.default | db[0]/0 db.default:80",
		"http/80/db-0.db":                           "ROUTES HTTP db.default direct db.default/80/db-0 | db[0]/0 db.default:80",
		"http/80/db-0.db.default.svc.cluster.local": "ROUTES HTTP db.default direct db.default/80/db-0 | db[0]/0 db.default:80",
		"http/80/db-9.db.default.svc.cluster.local": "UNKNOWN (there is no service db-9.db.default.svc.cluster.local)",
		"http/80/10.96.0.1":                         "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"http/8080/10.244.0.11":                     "ROUTES HTTP billing.default direct billing.default/80/billing-1 | billing-1[0]/0 billing.default:80",
		"http/80/93.184.216.34":                     "PASSTHROUGH",
		"http/80/10.244.9.9":                        "UNKNOWN (10.244.9.9 lies within the mesh's own prefixes, but no service and no workload that namespace default sees has it)",

		"addr/10.96.0.1:80":      "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"addr/10.96.0.1:82":      "ROUTES DETECT billing.default | billing[0]/0 billing.default:82 | tcp billing[0]/0 billing.default:82",
		"addr/10.96.0.1:83":      "UNKNOWN (billing.default.svc.cluster.local has the address 10.96.0.1 but no port 83 (it has 80 http, 81 grpc, 82 named))",
		"addr/10.96.0.2:7000":    "ROUTES TCP ledger.default | tcp ledger[0]/0 ledger.default:7000",
		"addr/10.96.0.50:443":    "ROUTES TLS api.example.com | tcp api[0]/0 api.example.com:443",
		"addr/10.96.0.9:80":      "UNKNOWN (10.96.0.9 lies within the mesh's own prefixes, but no service and no workload that namespace default sees has it)",
		"addr/10.96.9.9:81":      "UNKNOWN (10.96.9.9 lies within the mesh's own prefixes, but no service and no workload that namespace default sees has it)",
		"addr/10.96.9.9:9999":    "UNKNOWN TCP (10.96.9.9 lies within the mesh's own prefixes, but no service and no workload that namespace default sees has it)",
		"addr/10.244.0.11:8080":  "ROUTES HTTP billing.default direct billing.default/80/billing-1 | billing-1[0]/0 billing.default:80",
		"addr/10.244.0.11:9090":  "ROUTES DETECT billing.default direct billing.default/82/billing-1 | billing-1[0]/0 billing.default:82 | tcp billing-1[0]/0 billing.default:82",
		"addr/10.244.0.20:5432":  "ROUTES TCP db.default direct db.default/5432/db-0 | tcp db-0[0]/0 db.default:5432",
		"addr/10.244.0.11:1234":  "ROUTES DETECT billing-1.default.pod.cluster.local direct billing-1.default.pod.cluster.local/1234/billing-1 | billing-1[0]/0 billing-1.default.pod.cluster.local:1234 | tcp billing-1[0]/0 billing-1.default.pod.cluster.local:1234",
		"addr/192.168.3.4:9000":  "ROUTES TCP net.example.com | tcp cidr[0]/0 net.example.com:9000",
		"addr/1.2.3.4:27017":     "ROUTES TCP mongo.example.com | tcp mongo[0]/0 mongo.example.com:27017",
		"addr/1.2.3.4:80":        "PASSTHROUGH",
		"addr/1.2.3.4:8888":      "PASSTHROUGH",
		"addr/1.2.3.4:4444":      "PASSTHROUGH TCP",
		"addr/[2001:db8::1]:443": "PASSTHROUGH TCP",
		"nonsense":               "UNKNOWN (malformed resource name: want http/PORT/HOST, tls/PORT/SNI or addr/IP:PORT)",
	} {
		s := snapshot(fixture())
		if got := short(Answer(s, caller(s), name)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestAnswerRegistryOnly(t *testing.T) {
	parts := fixture()
	parts.Settings.RegistryOnly = true
	s := snapshot(parts)
	for name, want := range map[string]string{
		"http/80/www.example.org": "BLACKHOLE (www.example.org is no service of the mesh, and outboundTrafficPolicy is REGISTRY_ONLY)",
		"addr/1.2.3.4:80":         "BLACKHOLE (1.2.3.4:80 is no service of the mesh, and outboundTrafficPolicy is REGISTRY_ONLY)",
		"http/80/no.default.svc":  "UNKNOWN (there is no service no.default.svc.cluster.local)",
		"http/80/billing":         "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"addr/10.244.0.11:8080":   "ROUTES HTTP billing.default direct billing.default/80/billing-1 | billing-1[0]/0 billing.default:80",
		"http/80/api.example.com": "ROUTES HTTP api.example.com | api[0]/0 api.example.com:80",
	} {
		if got := short(Answer(s, caller(s), name)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestAnswerFromOtherNamespace(t *testing.T) {
	s := snapshot(fixture())
	w := s.Workload("other/client")
	for name, want := range map[string]string{
		"http/80/billing":         "ROUTES HTTP billing.other | billing[0]/0 billing.other:80",
		"http/80/billing.default": "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
		"http/80/hidden":          "ROUTES HTTP hidden.other | hidden[0]/0 hidden.other:80",
		"http/8888/one":           "PASSTHROUGH", // a short name is of the caller's own namespace
	} {
		if got := short(Answer(s, w, name)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestAnswerWithVirtualServices(t *testing.T) {
	from := func(labels ...string) *seinev1.HttpMatch {
		m := &seinev1.HttpMatch{SourceLabels: map[string]string{}}
		for _, l := range labels {
			k, v, _ := strings.Cut(l, "=")
			m.SourceLabels[k] = v
		}
		return m
	}
	exactHost := virtual("default", "exact", fqdn("billing"), rule("exact", 0, "billing"))
	tests := []struct {
		name, ask, want string
		list            []*mesh.VirtualService
	}{
		{"a destination without port has the dialled one", "http/81/billing", "ROUTES GRPC billing.default | exact[0]/0 billing.default:81", []*mesh.VirtualService{exactHost}},
		{"or the only one of its service", "http/80/billing", "ROUTES HTTP billing.default | v[0]/0 one.default:8888", []*mesh.VirtualService{virtual("default", "v", fqdn("billing"), rule("v", 0, "one"))}},
		{"exact before wildcard", "http/80/billing", "ROUTES HTTP billing.default | exact[0]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "w", "*.default.svc.cluster.local", rule("w", 0, "one")), exactHost}},
		{"the longest wildcard", "http/80/billing", "ROUTES HTTP billing.default | long[0]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "short", "*.svc.cluster.local", rule("short", 0, "one")), virtual("default", "long", "*.default.svc.cluster.local", rule("long", 0, "billing"))}},
		{"the first of two", "http/80/billing", "ROUTES HTTP billing.default | a[0]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "a", fqdn("billing"), rule("a", 0, "billing")), virtual("default", "b", fqdn("billing"), rule("b", 0, "one"))}},
		{"rules for others are left out", "http/80/billing", "ROUTES HTTP billing.default | v[1]/1 billing.default:80 | v[2]/0 one.default:8888",
			[]*mesh.VirtualService{virtual("default", "v", fqdn("billing"), rule("v", 0, "one", from("team=b")), rule("v", 1, "billing", from("team=b"), from("team=a")), rule("v", 2, "one"))}},
		{"all rules for others: as if it were not there", "http/80/billing", "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "v", fqdn("billing"), rule("v", 0, "one", from("team=b")))}},
		{"then the next for the same host", "http/80/billing", "ROUTES HTTP billing.default | b[0]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "a", fqdn("billing"), rule("a", 0, "one", from("team=b"))), virtual("default", "b", fqdn("billing"), rule("b", 0, "billing"))}},
		{"but not the next behind an exact one", "http/80/billing", "ROUTES HTTP billing.default | billing[0]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "a", fqdn("billing"), rule("a", 0, "one", from("team=b"))), virtual("default", "b", "*.default.svc.cluster.local", rule("b", 0, "one"))}},
		{"match port", "http/80/billing", "ROUTES HTTP billing.default | v[1]/1 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "v", fqdn("billing"), rule("v", 0, "one", &seinev1.HttpMatch{Port: 81}), rule("v", 1, "billing", &seinev1.HttpMatch{Port: 80}))}},
		{"match namespace", "http/80/billing", "ROUTES HTTP billing.default | v[1]/0 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "v", fqdn("billing"), rule("v", 0, "one", &seinev1.HttpMatch{SourceNamespace: "other"}), rule("v", 1, "billing"))}},
		{"match gateways; mesh with it forgets the labels, as Istio", "http/80/billing", "ROUTES HTTP billing.default | v[1]/1 billing.default:80",
			[]*mesh.VirtualService{virtual("default", "v", fqdn("billing"), rule("v", 0, "one", &seinev1.HttpMatch{Gateways: []string{"x/y"}}),
				rule("v", 1, "billing", &seinev1.HttpMatch{Gateways: []string{"x/y", "mesh"}, SourceLabels: map[string]string{"team": "b"}}))}},
		{"another namespace's holds, too", "http/80/billing", "ROUTES HTTP billing.default | v[0]/0 billing.default:80", []*mesh.VirtualService{virtual("other", "v", fqdn("billing"), rule("v", 0, "billing"))}},
		{"a host without service, on port 80", "http/80/shop.example.com", "ROUTES HTTP shop.example.com | v[0]/0 billing.default:80", []*mesh.VirtualService{virtual("default", "v", "shop.example.com", rule("v", 0, "billing"))}},
		{"a host without service, on another port", "http/8080/shop.example.com", "PASSTHROUGH", []*mesh.VirtualService{virtual("default", "v", "shop.example.com", rule("v", 0, "billing"))}},
		{"unless another of its hosts is a service there", "http/8888/shop.example.com", "ROUTES HTTP shop.example.com | v[0]/0 one.default:8888", []*mesh.VirtualService{virtual("default", "v", "shop.example.com "+fqdn("one"), rule("v", 0, "one"))}},
		{"a wildcard host without service", "http/80/a.shop.com", "ROUTES HTTP a.shop.com | v[0]/0 billing.default:80", []*mesh.VirtualService{virtual("default", "v", "*.shop.com", rule("v", 0, "billing"))}},
		{"a wildcard that has services does not make others", "http/80/no.default.svc.cluster.local", "UNKNOWN (there is no service no.default.svc.cluster.local)", []*mesh.VirtualService{virtual("default", "v", "*.default.svc.cluster.local", rule("v", 0, "billing"))}},
		{"exact host within a wildcard ServiceEntry", "http/80/a.wild.com", "ROUTES HTTP *.wild.com | v[0]/0 billing.default:80", []*mesh.VirtualService{virtual("default", "v", "a.wild.com", rule("v", 0, "billing"))}},
		{"wildcard of a ServiceEntry", "http/80/a.wild.com", "ROUTES HTTP *.wild.com | v[0]/0 billing.default:80", []*mesh.VirtualService{virtual("default", "v", "*.wild.com", rule("v", 0, "billing"))}},
		{"a wider wildcard does not beat the ServiceEntry's", "http/80/a.wild.com", "ROUTES HTTP *.wild.com | wild[0]/0 *.wild.com:80", []*mesh.VirtualService{virtual("default", "v", "*.com", rule("v", 0, "billing"))}},
		{"the Host is the service's address", "http/80/10.96.0.1", "ROUTES HTTP billing.default | exact[0]/0 billing.default:80", []*mesh.VirtualService{exactHost}},
		{"a workload's own address is not routed", "http/8080/10.244.0.11", "ROUTES HTTP billing.default direct billing.default/80/billing-1 | billing-1[0]/0 billing.default:80", []*mesh.VirtualService{exactHost}},
		{"TCP services have no HTTP routes", "http/7000/ledger", "ROUTES TCP ledger.default | ledger[0]/0 ledger.default:7000", []*mesh.VirtualService{virtual("default", "v", fqdn("ledger"), rule("v", 0, "billing"))}},
		{"an address says only the service", "addr/10.96.0.1:80", "ROUTES HTTP billing.default | billing[0]/0 billing.default:80", []*mesh.VirtualService{exactHost}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parts := fixture()
			parts.VirtualServices = tt.list
			s := snapshot(parts)
			if got := short(Answer(s, caller(s), tt.ask)); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
	t.Run("gateways and exportTo", func(t *testing.T) {
		for _, change := range []func(*mesh.VirtualService){
			func(vs *mesh.VirtualService) { vs.Gateways = []string{"default/gw"} },
			func(vs *mesh.VirtualService) { vs.Namespace, vs.ExportTo = "other", []string{"."} },
		} {
			vs := virtual("default", "v", fqdn("billing"), rule("v", 0, "one"))
			change(vs)
			parts := fixture()
			parts.VirtualServices = []*mesh.VirtualService{vs, virtual("default", "w", "*.default.svc.cluster.local", rule("w", 0, "one"))}
			s := snapshot(parts)
			if got, want := short(Answer(s, caller(s), "http/80/billing")), "ROUTES HTTP billing.default | w[0]/0 one.default:8888"; got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			if c := ChooseHost(s, caller(s), "billing", 80); len(c.Passed) != 1 {
				t.Errorf("passed over: %q", c.Passed)
			}
		}
	})
}

func TestTCPRules(t *testing.T) {
	tcpRule := func(i int32, m ...*seinev1.TcpMatch) *seinev1.TcpRule {
		return &seinev1.TcpRule{Index: i, Match: m, Source: &seinev1.Ref{Name: "v"}, Destinations: []*seinev1.Destination{{Host: fqdn("ledger")}}}
	}
	for _, tt := range []struct {
		name, want string
		rules      []*seinev1.TcpRule
	}{
		{"catch-all", "ROUTES TCP ledger.default | tcp v[0]/0 ledger.default:7000", []*seinev1.TcpRule{tcpRule(0), tcpRule(1)}},
		{"port", "ROUTES TCP ledger.default | tcp v[1]/1 ledger.default:7000", []*seinev1.TcpRule{tcpRule(0, &seinev1.TcpMatch{Port: 1}), tcpRule(1, &seinev1.TcpMatch{Port: 7000})}},
		{"labels", "ROUTES TCP ledger.default | tcp ledger[0]/0 ledger.default:7000", []*seinev1.TcpRule{tcpRule(0, &seinev1.TcpMatch{SourceLabels: map[string]string{"team": "b"}})}},
		{"labels count beside gateways", "ROUTES TCP ledger.default | tcp ledger[0]/0 ledger.default:7000", []*seinev1.TcpRule{tcpRule(0, &seinev1.TcpMatch{Gateways: []string{"mesh"}, SourceLabels: map[string]string{"team": "b"}})}},
		{"subnets leave the rest to the service", "ROUTES TCP ledger.default | tcp v[0]/1 ledger.default:7000 | tcp ledger[0]/0 ledger.default:7000", []*seinev1.TcpRule{tcpRule(0, &seinev1.TcpMatch{DestinationSubnets: []string{"10.0.0.0/8"}})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts := fixture()
			parts.VirtualServices = []*mesh.VirtualService{{Ref: ref("VirtualService", "default", "v"), Hosts: []string{fqdn("ledger")}, Gateways: []string{"mesh"}, TCP: tt.rules}}
			s := snapshot(parts)
			if got := short(Answer(s, caller(s), "addr/10.96.0.2:7000")); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestTLSRules holds who answers for a name, and for an address on a TLS port.
func TestTLSRules(t *testing.T) {
	tls := seinev1.Protocol_PROTOCOL_TLS
	rule := func(name string, i int32, dest string, m ...*seinev1.TcpMatch) *seinev1.TcpRule {
		return &seinev1.TcpRule{Index: i, Tls: true, Match: m, Source: &seinev1.Ref{Kind: "VirtualService", Name: name}, Destinations: []*seinev1.Destination{{Host: dest}}}
	}
	sni := func(hosts ...string) *seinev1.TcpMatch { return &seinev1.TcpMatch{SniHosts: hosts} }
	vs := func(name, host string, rules ...*seinev1.TcpRule) *mesh.VirtualService {
		return &mesh.VirtualService{Ref: ref("VirtualService", "default", name), Hosts: []string{host}, Gateways: []string{"mesh"}, TLS: rules}
	}
	entry := func(name, host string) *mesh.Service {
		return &mesh.Service{Ref: ref("ServiceEntry", "default", name), Host: host, Ports: []mesh.Port{port("tls", 443, 0, tls)}, External: true}
	}
	hidden := entry("hidden", "hidden.org")
	hidden.ExportTo, hidden.Namespace = []string{"."}, "other"
	parts := fixture()
	parts.Services = append(parts.Services, entry("one", "one.org"), entry("two", "two.org"), entry("wild", "*.wild.org"), hidden,
		service("secure", "10.96.0.60", port("https", 443, 8443, tls)))
	parts.VirtualServices = []*mesh.VirtualService{
		vs("r", "two.org", rule("r", 0, "one.org", &seinev1.TcpMatch{SniHosts: []string{"two.org"}, SourceLabels: map[string]string{"team": "b"}}),
			rule("r", 1, "one.org", sni("two.org", "*.two.org"), &seinev1.TcpMatch{SniHosts: []string{"two.org"}, Port: 444})),
		vs("s", fqdn("secure"), rule("s", 0, "one.org", sni("secure.org"))),
	}
	s := snapshot(parts)
	for name, want := range map[string]string{
		"tls/443/one.org":      "ROUTES TLS one.org | tcp one[0]/1 one.org:443",
		"tls/443/two.org":      "ROUTES TLS two.org | tcp r[1]/1 one.org:443",
		"tls/443/x.two.org":    "ROUTES TLS two.org | tcp r[1]/1 one.org:443",
		"tls/443/a.wild.org":   "ROUTES TLS *.wild.org | tcp wild[0]/1 *.wild.org:443",
		"tls/443/wild.org":     "UNKNOWN (no service on port 443 has the name wild.org)",
		"tls/443/hidden.org":   "UNKNOWN (no service on port 443 has the name hidden.org)",
		"tls/444/one.org":      "UNKNOWN (no service on port 444 has the name one.org)",
		"addr/10.96.0.60:443":  "ROUTES TLS secure.default | tcp s[0]/1 one.org:443 | tcp secure[0]/0 secure.default:443",
		"addr/203.0.113.7:443": "PASSTHROUGH TCP",
	} {
		a := Answer(s, caller(s), name)
		if got := short(a); got != want {
			t.Errorf("%s\n got %s\nwant %s", name, got, want)
		}
		if want := name == "addr/203.0.113.7:443"; a.BySni != want {
			t.Errorf("%s: by SNI: %t", name, a.BySni)
		}
	}
	parts.Settings.RegistryOnly = true
	s = snapshot(parts)
	for name, want := range map[string]string{
		"addr/10.96.0.60:443":  "ROUTES TLS secure.default | tcp s[0]/1 one.org:443",
		"addr/203.0.113.7:443": "BLACKHOLE TCP (203.0.113.7:443 is no service of the mesh, and outboundTrafficPolicy is REGISTRY_ONLY)",
	} {
		if got := short(Answer(s, caller(s), name)); got != want {
			t.Errorf("%s\n got %s\nwant %s", name, got, want)
		}
	}
}

// TestPure holds that planning writes nothing and gives equal output twice.
func TestPure(t *testing.T) {
	parts := fixture()
	parts.VirtualServices = []*mesh.VirtualService{virtual("default", "v", fqdn("billing")+" shop.example.com",
		rule("v", 0, "billing", &seinev1.HttpMatch{Port: 80}, &seinev1.HttpMatch{Port: 81}), rule("v", 1, "one"))}
	before := proto.Clone(parts.VirtualServices[0].HTTP[0])
	s := snapshot(parts)
	for _, name := range []string{"http/80/billing", "http/80/shop.example.com", "addr/10.96.0.2:7000", "addr/10.244.0.11:1234", "addr/1.2.3.4:80"} {
		if !proto.Equal(Answer(s, caller(s), name), Answer(s, caller(s), name)) {
			t.Errorf("%s differs", name)
		}
	}
	for _, w := range s.Workloads {
		if !proto.Equal(Self(s, w), Self(s, w)) {
			t.Errorf("Self of %s differs", w.Key())
		}
	}
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			key := seinev1.ServiceKey(svc.Host, p.Number)
			if !proto.Equal(Service(s, caller(s), key), Service(s, caller(s), key)) {
				t.Errorf("%s differs", key)
			}
			a, b := Endpoints(s, caller(s), key), Endpoints(s, caller(s), key)
			for i := range a {
				if !proto.Equal(a[i], b[i]) {
					t.Errorf("endpoint %s differs", a[i].Id)
				}
				if i > 0 && a[i-1].Id >= a[i].Id {
					t.Errorf("%s: %s before %s", key, a[i-1].Id, a[i].Id)
				}
			}
		}
	}
	if !proto.Equal(before, parts.VirtualServices[0].HTTP[0]) {
		t.Error("a message of the snapshot was written")
	}
}

// TestImports holds that plan and decide link nothing of Kubernetes, Istio or
// Envoy.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/seinemesh/seine/plan", "github.com/seinemesh/seine/decide").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		for _, bad := range []string{"istio.io/", "k8s.io/", "sigs.k8s.io/", "github.com/envoyproxy/", "net/http"} {
			if strings.HasPrefix(p, bad) {
				t.Errorf("links %s", p)
			}
		}
	}
}

// TestDefaultRetry: the mesh's policy holds for rules that have none.
func TestDefaultRetry(t *testing.T) {
	p := fixture()
	p.DefaultRetry = &seinev1.Retry{Attempts: 7}
	s := snapshot(p)
	for _, name := range []string{"http/80/billing", "http/80/api.example.com", "addr/10.244.0.11:8080"} {
		a := Answer(s, caller(s), name)
		if len(a.Http) == 0 {
			t.Errorf("%s: %v", name, a)
		}
		for _, r := range a.Http {
			if r.Retry.GetAttempts() != 7 {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
}
