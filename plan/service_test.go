package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

func endpointsOf(s *mesh.Snapshot, key string) string {
	var out []string
	for _, e := range Endpoints(s, caller(s), key) {
		text := fmt.Sprintf("%s=%s:%d", e.Id, e.Address, e.Port)
		if e.Workload.Identity != "" {
			text += " " + e.Workload.Identity[strings.LastIndexByte(e.Workload.Identity, '/')+1:]
		}
		if e.Unhealthy {
			text += " unhealthy"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func TestEndpoints(t *testing.T) {
	parts := fixture()
	parts.PeerAuth = []*mesh.PeerAuthentication{{Ref: ref("PeerAuthentication", "default", "p"), Selector: map[string]string{"app": "ledger"}, Mode: seinev1.MtlsMode_MTLS_DISABLE}}
	static := &mesh.Service{Ref: ref("ServiceEntry", "default", "static"), Host: "static.example.com", Ports: []mesh.Port{port("http", 80, 0, http)},
		Endpoints: []mesh.Endpoint{
			{Address: "1.1.1.2", Ports: map[string]uint32{"http": 8080}, Namespace: "default"},
			{Address: "1.1.1.1", Namespace: "default", ServiceAccount: "vm", Labels: map[string]string{"security.istio.io/tlsMode": "istio"}},
			{Address: "1.1.1.1", Namespace: "default"},
			{Address: "10.244.0.11", Ports: map[string]uint32{"http": 8080}, Namespace: "default"},
		}}
	parts.Services = append(parts.Services, static)
	s := snapshot(parts)
	for key, want := range map[string]string{
		fqdn("billing") + "/80":                     "billing-1=10.244.0.11:8080 sa-billing-1; billing-2=10.244.0.12:8080 sa-billing-2; billing-3=10.244.0.13:8080 sa-billing-3 unhealthy; billing-4=10.244.0.14:8080",
		fqdn("billing") + "/82":                     "billing-1=10.244.0.11:9090 sa-billing-1; billing-2=10.244.0.12:9090 sa-billing-2; billing-3=10.244.0.13:9090 sa-billing-3 unhealthy; billing-4=10.244.0.14:9090",
		fqdn("billing") + "/83":                     "",
		fqdn("ledger") + "/7000":                    "ledger-1=10.244.0.30:7000; ledger-vm=172.16.0.7:7000", // mutual TLS is off there
		fqdn("hidden.other") + "/80":                "",
		"api.example.com/80":                        "api.example.com:8000=api.example.com:8000",
		"api.example.com/443":                       "api.example.com:443=api.example.com:443",
		"static.example.com/80":                     "1.1.1.1:80=1.1.1.1:80 vm; 1.1.1.2:8080=1.1.1.2:8080; 10.244.0.11:8080=10.244.0.11:8080 sa-billing-1",
		"net.example.com/9000":                      "",
		"billing-1.default.pod.cluster.local/1234":  "billing-1=10.244.0.11:1234 sa-billing-1",
		"billing-99.default.pod.cluster.local/1234": "",
		"nonsense": "",
	} {
		if got := endpointsOf(s, key); got != want {
			t.Errorf("%s:\n got %s\nwant %s", key, got, want)
		}
	}
	e := Endpoints(s, caller(s), fqdn("billing")+"/80")[0]
	w := e.Workload
	if w.Name != "billing-1" || w.Workload != "billing" || w.CanonicalService != "billing" || w.CanonicalRevision != "v1" || w.App != "billing" ||
		w.Version != "v1" || w.Namespace != "default" || w.Cluster != "Kubernetes" || w.Identity != "spiffe://cluster.local/ns/default/sa/sa-billing-1" {
		t.Errorf("%v", w)
	}
}

func TestDestinationRule(t *testing.T) {
	dr := func(namespace, name, host string, f ...func(*mesh.DestinationRule)) *mesh.DestinationRule {
		d := &mesh.DestinationRule{Ref: ref("DestinationRule", namespace, name), Host: host}
		for _, f := range f {
			f(d)
		}
		return d
	}
	private := func(d *mesh.DestinationRule) { d.ExportTo = []string{"."} }
	selecting := func(labels string) func(*mesh.DestinationRule) {
		k, v, _ := strings.Cut(labels, "=")
		return func(d *mesh.DestinationRule) { d.WorkloadSelector = map[string]string{k: v} }
	}
	other := fqdn("billing.other")
	tests := []struct {
		name, from, want string
		list             []*mesh.DestinationRule
	}{
		{"none", "default/frontend-1", "", nil},
		{"the caller's namespace first", "default/frontend-1", "mine", []*mesh.DestinationRule{dr("other", "theirs", other), dr("default", "mine", other)}},
		{"even with a wider host", "default/frontend-1", "mine", []*mesh.DestinationRule{dr("other", "theirs", other), dr("default", "mine", "*.svc.cluster.local")}},
		{"then the service's", "default/frontend-1", "theirs", []*mesh.DestinationRule{dr("seine-system", "root", other), dr("other", "theirs", other)}},
		{"if it is exported", "default/frontend-1", "root", []*mesh.DestinationRule{dr("seine-system", "root", other), dr("other", "theirs", other, private)}},
		{"then the root's", "default/frontend-1", "root", []*mesh.DestinationRule{dr("seine-system", "root", "*.local")}},
		{"not any namespace's", "other/client", "", []*mesh.DestinationRule{dr("default", "x", other)}},
		{"the most specific host", "default/frontend-1", "b", []*mesh.DestinationRule{dr("default", "a", "*.local"), dr("default", "b", "*.other.svc.cluster.local")}},
		{"one that selects the caller", "default/frontend-1", "b", []*mesh.DestinationRule{dr("default", "a", other), dr("default", "b", other, selecting("team=a"))}},
		{"one that selects others", "default/frontend-1", "a", []*mesh.DestinationRule{dr("default", "b", other, selecting("team=z")), dr("default", "a", other)}},
		{"a selector elsewhere selects nobody", "default/frontend-1", "", []*mesh.DestinationRule{dr("other", "b", other, selecting("team=a"))}},
		{"from the root namespace, the service's come before wildcards", "seine-system/gw", "theirs", []*mesh.DestinationRule{dr("seine-system", "root", "*.local"), dr("other", "theirs", other)}},
		{"but its own exact one is first", "seine-system/gw", "root", []*mesh.DestinationRule{dr("seine-system", "root", other, private), dr("other", "theirs", other)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parts := fixture()
			parts.Workloads = append(parts.Workloads, workload("seine-system", "gw", ""))
			parts.DestinationRules = tt.list
			s := snapshot(parts)
			got := ""
			if d := DestinationRule(s, s.Workload(tt.from), s.Service(other, "other")); d != nil {
				got = d.Name
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestService(t *testing.T) {
	parts := fixture()
	host, on81 := &seinev1.TrafficPolicy{Sni: "host"}, &seinev1.TrafficPolicy{Sni: "81"}
	v1, v1on81 := &seinev1.TrafficPolicy{Sni: "v1"}, &seinev1.TrafficPolicy{Sni: "v1-81"}
	parts.DestinationRules = []*mesh.DestinationRule{{
		Ref: ref("DestinationRule", "default", "dr"), Host: fqdn("billing"), Policy: host, PortPolicies: map[uint32]*seinev1.TrafficPolicy{81: on81},
		Subsets: []mesh.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}, Policy: v1, PortPolicies: map[uint32]*seinev1.TrafficPolicy{81: v1on81}}},
		Unsupported: []mesh.Unsupported{
			{Path: "spec.trafficPolicy.outlierDetection"},
			{Path: "spec.trafficPolicy.portLevelSettings[0].outlierDetection", Port: 1},
		},
	}}
	s := snapshot(parts)
	for p, want := range map[uint32][2]string{80: {"host", "v1"}, 81: {"81", "v1-81"}, 82: {"host", "v1"}} {
		svc := Service(s, caller(s), seinev1.ServiceKey(fqdn("billing"), p))
		if svc.Policy.Sni != want[0] || svc.Subsets[0].Policy.Sni != want[1] || svc.Source.Name != "dr" || len(svc.Unsupported) != 1 {
			t.Errorf("port %d: %v", p, svc)
		}
	}
	svc := Service(s, caller(s), "api.example.com/80")
	if svc.Name != "api.example.com" || svc.Namespace != "default" || !svc.External || svc.Resolution != seinev1.Service_DNS || svc.PortName != "http" {
		t.Errorf("%v", svc)
	}
	for _, key := range []string{"", "x", fqdn("hidden.other") + "/80", fqdn("billing") + "/9", "no.such/80", "x.wild.com/80", "no.default.pod.cluster.local/80"} {
		if svc := Service(s, caller(s), key); svc != nil {
			t.Errorf("%q: %v", key, svc)
		}
	}
	if svc := Service(s, caller(s), "*.wild.com/80"); svc == nil || svc.Resolution != seinev1.Service_ORIGINAL {
		t.Errorf("%v", svc)
	}
	if svc := Service(s, caller(s), "billing-1.default.pod.cluster.local/1234"); svc == nil || svc.Port != 1234 || svc.Name != "billing-1" {
		t.Errorf("%v", svc)
	}
}

func TestMtls(t *testing.T) {
	const (
		unset, disable     = seinev1.MtlsMode_MTLS_UNSPECIFIED, seinev1.MtlsMode_MTLS_DISABLE
		permissive, strict = seinev1.MtlsMode_MTLS_PERMISSIVE, seinev1.MtlsMode_MTLS_STRICT
	)
	peer := func(namespace, name, selector string, mode seinev1.MtlsMode, ports map[uint32]seinev1.MtlsMode) *mesh.PeerAuthentication {
		p := &mesh.PeerAuthentication{Ref: ref("PeerAuthentication", namespace, name), Mode: mode, Ports: ports}
		if selector != "" {
			p.Selector = map[string]string{"app": selector}
		}
		return p
	}
	legacy := func(namespace, name string, mode seinev1.MtlsMode, services map[string][]uint32) *mesh.PeerAuthentication {
		return &mesh.PeerAuthentication{Ref: ref("Policy", namespace, name), Mode: mode, Services: services}
	}
	meshPolicy := &mesh.PeerAuthentication{Ref: ref("MeshPolicy", "", "default"), Mode: strict, MeshWide: true}
	type want struct {
		mode seinev1.MtlsMode
		by   string
	}
	tests := []struct {
		name string
		port uint32
		want want
		list []*mesh.PeerAuthentication
	}{
		{"default", 8080, want{permissive, ""}, nil},
		{"mesh", 8080, want{strict, "m"}, []*mesh.PeerAuthentication{peer("seine-system", "m", "", strict, nil)}},
		{"namespace over mesh", 8080, want{disable, "n"}, []*mesh.PeerAuthentication{peer("seine-system", "m", "", strict, nil), peer("default", "n", "", disable, nil)}},
		{"another namespace", 8080, want{permissive, ""}, []*mesh.PeerAuthentication{peer("other", "n", "", strict, nil)}},
		{"unset inherits", 8080, want{strict, "m"}, []*mesh.PeerAuthentication{peer("seine-system", "m", "", strict, nil), peer("default", "n", "", unset, nil)}},
		{"workload over namespace", 8080, want{permissive, "w"}, []*mesh.PeerAuthentication{peer("default", "n", "", strict, nil), peer("default", "w", "billing", permissive, nil)}},
		{"another workload", 8080, want{strict, "n"}, []*mesh.PeerAuthentication{peer("default", "n", "", strict, nil), peer("default", "w", "ledger", permissive, nil)}},
		{"port over workload", 8080, want{disable, "w"}, []*mesh.PeerAuthentication{peer("default", "w", "billing", strict, map[uint32]seinev1.MtlsMode{8080: disable})}},
		{"another port", 8081, want{strict, "w"}, []*mesh.PeerAuthentication{peer("default", "w", "billing", strict, map[uint32]seinev1.MtlsMode{8080: disable})}},
		{"port that is unset", 8080, want{strict, "w"}, []*mesh.PeerAuthentication{peer("default", "w", "billing", strict, map[uint32]seinev1.MtlsMode{8080: unset})}},
		{"port of an unset workload policy", 8081, want{strict, "m"}, []*mesh.PeerAuthentication{peer("seine-system", "m", "", strict, nil), peer("default", "w", "billing", unset, map[uint32]seinev1.MtlsMode{8080: disable})}},
		{"the first of two", 8080, want{strict, "a"}, []*mesh.PeerAuthentication{peer("default", "a", "billing", strict, nil), peer("default", "b", "billing", disable, nil)}},
		{"a selector in the root namespace selects nothing", 8080, want{permissive, ""}, []*mesh.PeerAuthentication{peer("seine-system", "m", "billing", strict, nil)}},
		{"MeshPolicy", 8080, want{strict, "default"}, []*mesh.PeerAuthentication{meshPolicy}},
		{"MeshPolicy, any port", 0, want{strict, "default"}, []*mesh.PeerAuthentication{meshPolicy}},
		{"Policy of the namespace", 8080, want{permissive, "p"}, []*mesh.PeerAuthentication{meshPolicy, legacy("default", "p", permissive, nil)}},
		{"Policy of the service", 8080, want{disable, "s"}, []*mesh.PeerAuthentication{meshPolicy, legacy("default", "p", permissive, nil), legacy("default", "s", disable, map[string][]uint32{fqdn("billing"): nil})}},
		{"Policy of the service's port", 8080, want{disable, "s"}, []*mesh.PeerAuthentication{meshPolicy, legacy("default", "s", disable, map[string][]uint32{fqdn("billing"): {80}})}},
		{"Policy of another port", 8081, want{strict, "default"}, []*mesh.PeerAuthentication{meshPolicy, legacy("default", "s", disable, map[string][]uint32{fqdn("billing"): {80}})}},
		{"Policy of another service", 8080, want{strict, "default"}, []*mesh.PeerAuthentication{meshPolicy, legacy("default", "s", disable, map[string][]uint32{fqdn("ledger"): nil})}},
		{"PeerAuthentication before MeshPolicy", 8080, want{permissive, "m"}, []*mesh.PeerAuthentication{meshPolicy, peer("seine-system", "m", "", permissive, nil)}},
		{"an unset PeerAuthentication does not open what MeshPolicy closes", 8080, want{strict, "default"}, []*mesh.PeerAuthentication{meshPolicy, peer("default", "n", "", unset, nil)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parts := fixture()
			parts.PeerAuth = tt.list
			s := snapshot(parts)
			mode, by := Mtls(s, s.Workload("default/billing-1"), tt.port)
			if got := (want{mode, by.GetName()}); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestSelf(t *testing.T) {
	parts := fixture()
	parts.PeerAuth = []*mesh.PeerAuthentication{
		{Ref: ref("MeshPolicy", "", "default"), Mode: seinev1.MtlsMode_MTLS_STRICT, MeshWide: true},
		{Ref: ref("PeerAuthentication", "default", "w"), Selector: map[string]string{"app": "billing"}, Ports: map[uint32]seinev1.MtlsMode{8081: seinev1.MtlsMode_MTLS_DISABLE, 7777: seinev1.MtlsMode_MTLS_PERMISSIVE}},
	}
	s := snapshot(parts)
	self := Self(s, s.Workload("default/billing-1"))
	var got []string
	for _, p := range self.Inbound {
		got = append(got, fmt.Sprintf("%d %s %s %s %s:%d", p.Port, strings.TrimPrefix(p.Protocol.String(), "PROTOCOL_"), strings.TrimPrefix(p.Mtls.String(), "MTLS_"), p.MtlsSource.GetName(), p.ServiceName, p.ServicePort))
	}
	want := "7777 DETECT PERMISSIVE w :0; 8080 HTTP STRICT default billing:80; 8081 GRPC DISABLE w billing:81; 9090 DETECT STRICT default billing:82"
	if strings.Join(got, "; ") != want {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, "; "), want)
	}
	if self.DefaultMtls != seinev1.MtlsMode_MTLS_STRICT || self.DefaultMtlsSource.GetName() != "default" || self.ClusterDomain != "cluster.local" {
		t.Errorf("%v", self)
	}
	if got := strings.Join(self.MeshPrefixes, " "); got != "10.96.0.0/12 10.244.0.0/16 172.16.0.7/32" {
		t.Errorf("prefixes %s", got)
	}
	for i := range 300 {
		parts.Workloads = append(parts.Workloads, workload("default", fmt.Sprint("vm-", i), netip.AddrFrom4([4]byte{172, 17, 0, byte(i)}).String()))
	}
	if got := strings.Join(Self(snapshot(parts), parts.Workloads[0]).MeshPrefixes, " "); got != "10.96.0.0/12 10.244.0.0/16 172.16.0.0/24 172.17.0.0/24" {
		t.Errorf("prefixes %s", got)
	}
}

// TestForCaller: localityLbSetting reaches the proxy with where its workload is.
func TestForCaller(t *testing.T) {
	shares := &seinev1.Locality{Distribute: []*seinev1.Locality_Distribute{{From: "eu", To: map[string]uint32{"eu": 100}}}}
	parts := fixture()
	s := snapshot(parts)
	w := *caller(s)
	w.Locality, w.Labels = "eu/a/1", map[string]string{"version": "v7"}
	none := &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_RANDOM}
	if forCaller(s, &w, none) != none || forCaller(s, &w, nil) != nil {
		t.Error("a policy that does not look at places is copied")
	}
	written := &seinev1.TrafficPolicy{Balancer: seinev1.TrafficPolicy_RANDOM, Locality: shares}
	p := forCaller(s, &w, written)
	if p == written || p.Balancer != written.Balancer || p.Locality.Caller != "eu/a/1" || len(p.Locality.Distribute) != 1 || shares.Caller != "" {
		t.Errorf("%v", p)
	}
	if off := (&seinev1.TrafficPolicy{Locality: &seinev1.Locality{Disabled: true}}); forCaller(s, &w, off) != off {
		t.Error("disabled")
	}
	watched := &seinev1.TrafficPolicy{Outlier: &seinev1.OutlierDetection{}, Locality: &seinev1.Locality{FailoverPriority: []string{"version", "x=y", "topology.istio.io/cluster"}}}
	if l := forCaller(s, &w, watched).Locality; !l.FailoverActive || l.CallerLabels["version"] != "v7" || l.CallerLabels["topology.istio.io/cluster"] != "Kubernetes" || len(l.CallerLabels) != 2 {
		t.Errorf("%v", l)
	}
	if l := forCaller(s, &w, &seinev1.TrafficPolicy{Outlier: &seinev1.OutlierDetection{}}).Locality; !l.GetFailoverActive() || l.GetCaller() != "eu/a/1" {
		t.Errorf("outlierDetection alone: %v", l)
	}
	s.Locality = &seinev1.Locality{Disabled: true}
	if l := forCaller(s, &w, &seinev1.TrafficPolicy{Outlier: &seinev1.OutlierDetection{}}).Locality; l != nil {
		t.Errorf("disabled for the mesh: %v", l)
	}
	s.Locality = shares
	if p := forCaller(s, &w, nil); p.GetLocality().GetCaller() != "eu/a/1" {
		t.Errorf("the mesh's setting: %v", p)
	}
	if p := Service(s, &w, fqdn("ledger")+"/7000"); p.GetPolicy().GetLocality().GetCaller() != "eu/a/1" {
		t.Errorf("without a DestinationRule: %v", p)
	}
}

// TestMeshDefaults: what MeshConfig says of upstreams holds where the
// DestinationRule says nothing, of keep-alive field by field.
func TestMeshDefaults(t *testing.T) {
	parts := fixture()
	second, minute := durationpb.New(time.Second), durationpb.New(time.Minute)
	alive := func(k *seinev1.ConnectionPool_Keepalive) *seinev1.ConnectionPool {
		return &seinev1.ConnectionPool{Keepalive: k}
	}
	parts.Upstream = &seinev1.TrafficPolicy{ConnectTimeout: second, H2Upgrade: seinev1.TrafficPolicy_H2_UPGRADE, Pool: alive(&seinev1.ConnectionPool_Keepalive{Probes: 3, Time: minute})}
	own := &seinev1.TrafficPolicy{ConnectTimeout: minute, H2Upgrade: seinev1.TrafficPolicy_H2_DO_NOT, Pool: alive(&seinev1.ConnectionPool_Keepalive{Time: second})}
	parts.DestinationRules = []*mesh.DestinationRule{{
		Ref: ref("DestinationRule", "default", "billing"), Host: fqdn("billing"), Policy: own,
		Subsets: []mesh.Subset{{Name: "bare"}},
	}}
	s := snapshot(parts)
	got := Service(s, caller(s), seinev1.ServiceKey(fqdn("billing"), 80))
	want := &seinev1.TrafficPolicy{ConnectTimeout: minute, H2Upgrade: seinev1.TrafficPolicy_H2_DO_NOT, Pool: alive(&seinev1.ConnectionPool_Keepalive{Probes: 3, Time: second})}
	if !proto.Equal(got.Policy, want) || !proto.Equal(got.Subsets[0].Policy, parts.Upstream) {
		t.Errorf("%v", got)
	}
	if got := Service(s, caller(s), seinev1.ServiceKey(fqdn("one"), 8888)); !proto.Equal(got.Policy, parts.Upstream) {
		t.Errorf("without a DestinationRule: %v", got.Policy)
	}
	if own.Pool.Keepalive.Probes != 0 {
		t.Error("the Snapshot's policy was written to")
	}
}

// TestCredentialOfAnother holds that no other namespace's rule makes a sidecar
// show its Secret.
func TestCredentialOfAnother(t *testing.T) {
	for _, tc := range []struct {
		namespace, credential, file string
		want                        bool
	}{
		{"default", "x", "/etc/seine/credentials/x/tls.key", true},
		{"other", "x", "/etc/seine/credentials/x/tls.key", false},
		{"default", "", "/etc/seine/credentials/x/tls.key", true},
		{"other", "", "/etc/certs/tls.key", true},
		{"other", "", "/etc/seine/credentials/x/tls.key", false},
		{"other", "", "/etc/certs/..//seine/credentials/x/tls.key", false},
		{"other", "", "/proc/self/root/etc/seine/credentials/x/tls.key", false},
		{"other", "", "etc/seine/credentials/x/tls.key", false},
	} {
		namespace, want := tc.namespace, tc.want
		policy := &seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_MUTUAL, Originate: &seinev1.OriginateTls{Credential: tc.credential, PrivateKey: tc.file}}
		parts := fixture()
		parts.Services = append(parts.Services, &mesh.Service{Ref: ref("ServiceEntry", "other", "db"), Host: "db.example.com", External: true, Ports: []mesh.Port{port("tcp", 5432, 0, tcp)}})
		parts.DestinationRules = []*mesh.DestinationRule{{
			Ref: ref("DestinationRule", namespace, "r"), Host: "db.example.com", Policy: policy,
			Subsets: []mesh.Subset{{Name: "s", Policy: policy}},
		}}
		s := snapshot(parts)
		got := Service(s, caller(s), "db.example.com/5432")
		if got.Source == nil || got.Policy.Tls != seinev1.TrafficPolicy_MUTUAL {
			t.Fatalf("%s: %v", namespace, got)
		}
		if (got.Policy.Originate != nil) != want || (got.Subsets[0].Policy.Originate != nil) != want || policy.Originate == nil {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
