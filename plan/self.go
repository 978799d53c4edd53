package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// Self is what w's proxy must know of its own workload.
func Self(s *mesh.Snapshot, w *mesh.Workload) *seinev1.Self {
	out := &seinev1.Self{
		Workload: WorkloadOf(s, w), Labels: w.Labels,
		TrustDomain: s.Settings.TrustDomain, ClusterDomain: s.Settings.ClusterDomain,
		MeshPrefixes: prefixes(s),
		AccessLog:    &seinev1.AccessLog{Format: s.Settings.AccessLog},
	}
	if id := out.Workload; id.Identity == "" {
		id.Identity = mesh.SPIFFE(s.Settings.TrustDomain, w.Namespace, w.ServiceAccount)
	}
	mode, by := Mtls(s, w, 0)
	out.DefaultMtls, out.DefaultMtlsSource = mode, by

	ports := map[uint32]*seinev1.InboundPort{}
	for _, svc := range s.ServicesOf(w) {
		for _, p := range svc.Ports {
			target, ok := p.TargetOn(w)
			if !ok || ports[target] != nil {
				continue // the first service of a port names it
			}
			in := &seinev1.InboundPort{
				Port: target, Protocol: p.Protocol, Service: svc.Host, ServiceName: svc.Name,
				ServiceNamespace: svc.Namespace, ServicePort: p.Number,
			}
			if svc.Kind == "ServiceEntry" {
				in.ServiceName = svc.Host
			}
			ports[target] = in
		}
	}
	for _, pa := range s.PeerAuth {
		if pa.Namespace != w.Namespace || len(pa.Selector) == 0 || !mesh.Selects(pa.Selector, w.Labels) {
			continue
		}
		for port := range pa.Ports {
			if ports[port] == nil {
				ports[port] = &seinev1.InboundPort{Port: port}
			}
		}
	}
	if c := sidecarOf(s, w); c != nil {
		for _, l := range c.Ingress {
			in := ports[l.Port]
			if in == nil {
				in = &seinev1.InboundPort{Port: l.Port}
				ports[l.Port] = in
			}
			in.Protocol = l.Protocol
			if l.Endpoint.IsValid() {
				in.Endpoint = l.Endpoint.String()
			}
		}
	}
	if i := w.Introduced; i != nil {
		for _, port := range i.Ports {
			if ports[port] == nil {
				ports[port] = &seinev1.InboundPort{Port: port}
			}
			ports[port].ProxyProtocol = true
			for _, p := range i.From {
				ports[port].ProxyProtocolFrom = append(ports[port].ProxyProtocolFrom, p.String())
			}
		}
	}
	for port, in := range ports {
		in.Mtls, in.MtlsSource = Mtls(s, w, port)
		out.Inbound = append(out.Inbound, in)
	}
	for _, r := range s.RateLimits {
		if (r.Namespace == w.Namespace || r.Namespace == s.Settings.RootNamespace) && mesh.Selects(r.Selector, w.Labels) {
			out.RateLimits = append(out.RateLimits, r.Limits...)
		}
	}
	for _, a := range s.Authorizations {
		if (a.Namespace == w.Namespace || a.Namespace == s.Settings.RootNamespace) && mesh.Selects(a.Selector, w.Labels) {
			out.Authorization = append(out.Authorization, a.Policy)
		}
	}
	out.MergeSlashes = s.Settings.MergeSlashes && len(out.Authorization) > 0
	out.TraceClient, out.TraceServer = tracing(s, w)
	if w.DNS {
		out.DnsNames = dnsNames(s, w)
	}
	slices.SortFunc(out.Inbound, func(a, b *seinev1.InboundPort) int { return cmp.Compare(a.Port, b.Port) })
	return out
}

// maxNames is, in bytes, what a proxy is told of names at most: half of what
// discovery sends in one resource.
const maxNames = 1 << 20

// dnsNames are the names that w's sidecar answers for: of every service that w sees
// and that has addresses, of the families that w has. A headless service's name leads
// to its pods, and changes with each of them: that stays the cluster's own DNS' to
// say, as do names that only it knows. Those of ServiceEntries come first: nobody else
// might have them, whereas a Service that finds no room below maxNames has the same
// addresses there.
func dnsNames(s *mesh.Snapshot, w *mesh.Workload) []*seinev1.DnsName {
	four, six := len(w.Addresses) == 0, len(w.Addresses) == 0
	for _, a := range w.Addresses {
		four, six = four || a.Is4(), six || a.Is6()
	}
	room := maxNames
	var out []*seinev1.DnsName
	take := func(svc *mesh.Service) {
		if strings.HasPrefix(svc.Host, "*") || s.Service(svc.Host, w.Namespace) != svc {
			return
		}
		n := &seinev1.DnsName{Name: svc.Host}
		for _, a := range slices.Concat(svc.Addresses, svc.Allocated) {
			if a.Is4() && four || a.Is6() && six {
				n.Addresses = append(n.Addresses, a.AsSlice())
			}
		}
		if size := proto.Size(n); len(n.Addresses) > 0 && size <= room {
			out, room = append(out, n), room-size
		}
	}
	for _, entries := range []bool{true, false} {
		for _, svc := range s.Services {
			if (svc.Kind == "ServiceEntry") == entries {
				take(svc)
			}
		}
	}
	slices.SortFunc(out, func(a, b *seinev1.DnsName) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// maxSingles is up to how many addresses outside the mesh's prefixes are told
// to every proxy one by one.
const maxSingles = 64

// prefixes are the mesh's own, and what has an address outside of them: a proxy
// must never pass such an address in plaintext because nobody answered. Many
// are told as the networks that they lie in, which costs a question more for
// their neighbours and nothing else.
func prefixes(s *mesh.Snapshot) []string {
	singles := make([]netip.Prefix, 0, len(s.Strays()))
	for _, a := range s.Strays() {
		singles = append(singles, netip.PrefixFrom(a, a.BitLen()))
	}
	if len(singles) > maxSingles {
		for i, p := range singles {
			bits := 24
			if p.Addr().Is6() {
				bits = 64
			}
			singles[i] = netip.PrefixFrom(p.Addr(), bits).Masked()
		}
		singles = slices.Compact(singles) // they are sorted: so are their networks
	}
	var out []string
	for _, p := range s.Settings.Prefixes {
		out = append(out, p.String())
	}
	for _, p := range singles {
		out = append(out, p.String())
	}
	return out
}

// WorkloadOf is a workload as metrics, logs and peers name it.
func WorkloadOf(s *mesh.Snapshot, t *mesh.Workload) *seinev1.Workload {
	out := labelled(s, t.Namespace, t.App, t.Labels)
	out.Name, out.ServiceAccount = t.Instance, t.ServiceAccount
	if t.Sidecar || t.Gateway {
		out.Identity = mesh.SPIFFE(s.Settings.TrustDomain, t.Namespace, t.ServiceAccount)
	}
	return out
}

// labelled fills what labels say, by Istio's rules for canonical names.
func labelled(s *mesh.Snapshot, namespace, app string, labels map[string]string) *seinev1.Workload {
	return &seinev1.Workload{
		Namespace: namespace, Workload: app, App: labels["app"], Version: labels["version"], Cluster: s.Settings.ClusterID,
		CanonicalService:  first(labels["service.istio.io/canonical-name"], labels["app.kubernetes.io/name"], labels["app"], app),
		CanonicalRevision: first(labels["service.istio.io/canonical-revision"], labels["app.kubernetes.io/version"], labels["version"], "latest"),
	}
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// Mtls is the mode in which w's port receives connections and the resource that
// says so (nil: the default, PERMISSIVE). Port 0 stands for every port that
// nothing names.
//
// Istio's precedence (ComposePeerAuthentication): the port of the workload's
// policy, the workload's, the namespace's, the mesh's; one that is unset
// inherits; of several at one level the first holds; a selector in the root
// namespace selects nothing. The legacy kinds stand at the same levels, behind a
// PeerAuthentication of the level: a Policy for a service's port, for a service,
// a namespace's Policy, the MeshPolicy. (Istio 1.5 ignored them altogether as
// soon as one PeerAuthentication meant the workload, so that a policy that was
// left unset opened what MeshPolicy had made STRICT.)
func Mtls(s *mesh.Snapshot, w *mesh.Workload, port uint32) (seinev1.MtlsMode, *seinev1.Ref) {
	root := s.Settings.RootNamespace
	var whole, namespace, workload *mesh.PeerAuthentication
	var meshPolicy, policy, service, servicePort *mesh.PeerAuthentication
	keep := func(dst **mesh.PeerAuthentication, pa *mesh.PeerAuthentication) {
		if *dst == nil {
			*dst = pa
		}
	}
	for _, pa := range s.PeerAuth {
		legacy := pa.Kind != "PeerAuthentication"
		switch {
		case pa.MeshWide:
			keep(&meshPolicy, pa)
		case len(pa.Services) > 0:
			switch targeted(s, w, port, pa) {
			case targetPort:
				keep(&servicePort, pa)
			case targetService:
				keep(&service, pa)
			}
		case len(pa.Selector) > 0:
			if pa.Namespace == w.Namespace && pa.Namespace != root && mesh.Selects(pa.Selector, w.Labels) {
				keep(&workload, pa)
			}
		case legacy:
			if pa.Namespace == w.Namespace {
				keep(&policy, pa)
			}
		case pa.Namespace == root:
			keep(&whole, pa)
		case pa.Namespace == w.Namespace:
			keep(&namespace, pa)
		}
	}
	if workload != nil {
		if m := workload.Ports[port]; m != seinev1.MtlsMode_MTLS_UNSPECIFIED {
			return m, workload.Proto()
		}
	}
	return inherit(servicePort, workload, service, namespace, policy, whole, meshPolicy)
}

func inherit(levels ...*mesh.PeerAuthentication) (seinev1.MtlsMode, *seinev1.Ref) {
	for _, pa := range levels {
		if pa != nil && pa.Mode != seinev1.MtlsMode_MTLS_UNSPECIFIED {
			return pa.Mode, pa.Proto()
		}
	}
	return seinev1.MtlsMode_MTLS_PERMISSIVE, nil
}

type target uint8

const (
	targetNone target = iota
	targetService
	targetPort
)

// targeted is how a legacy Policy with targets means w's port: by the port of a
// service that selects w, or by the service as a whole.
func targeted(s *mesh.Snapshot, w *mesh.Workload, port uint32, pa *mesh.PeerAuthentication) target {
	best := targetNone
	for _, svc := range s.ServicesOf(w) {
		ports, ok := pa.Services[svc.Host]
		if !ok {
			continue
		}
		p := portTargeting(svc, w, port)
		if p == nil {
			continue // the policy is for the service's ports
		}
		if len(ports) == 0 {
			best = max(best, targetService)
		} else if slices.Contains(ports, p.Number) {
			best = targetPort
		}
	}
	return best
}
