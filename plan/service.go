package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// Service returns one port of a service ("FQDN/PORT") with the policies that
// hold for w; nil if w sees no such thing.
func Service(s *mesh.Snapshot, w *mesh.Workload, key string) *seinev1.Service {
	svc, p, t := lookUp(s, w, key)
	switch {
	case t != nil:
		_, port, _ := seinev1.ParseServiceKey(key)
		return &seinev1.Service{Host: instanceHost(s, t), Name: t.Instance, Namespace: t.Namespace, Port: uint32(port)}
	case svc == nil:
		return nil
	}
	out := &seinev1.Service{
		Host: svc.Host, Name: svc.Name, Namespace: svc.Namespace, Port: p.Number, PortName: p.Name, Protocol: p.Protocol,
		Resolution: svc.Resolution, External: svc.External, SubjectAltNames: svc.SANs,
	}
	if svc.Kind == "ServiceEntry" {
		out.Name = svc.Host // as Istio's destination_service_name
	}
	dr := DestinationRule(s, w, svc)
	if dr == nil {
		out.Policy = forCaller(s, w, withDefaults(s, nil))
		return out
	}
	out.Source = dr.Proto()
	for i := range dr.Unsupported {
		if u := &dr.Unsupported[i]; u.Holds(u.Subset, p.Number) {
			out.Unsupported = append(out.Unsupported, u.Path)
		}
	}
	own := func(p *seinev1.TrafficPolicy) *seinev1.TrafficPolicy {
		return withDefaults(s, ownCredential(p, dr.Namespace == w.Namespace))
	}
	out.Policy = forCaller(s, w, own(policyOn(p.Number, dr.Policy, dr.PortPolicies)))
	for i := range dr.Subsets {
		sub := &dr.Subsets[i]
		out.Subsets = append(out.Subsets, &seinev1.Subset{
			Name: sub.Name, Labels: sub.Labels, Policy: forCaller(s, w, own(policyOn(p.Number, sub.Policy, sub.PortPolicies))),
		})
	}
	return out
}

func policyOn(port uint32, policy *seinev1.TrafficPolicy, ports map[uint32]*seinev1.TrafficPolicy) *seinev1.TrafficPolicy {
	if p := ports[port]; p != nil {
		return p
	}
	return policy
}

// withDefaults completes a policy by the mesh's (MeshConfig): connectTimeout and
// h2UpgradePolicy where it has none, tcpKeepalive field by field (Istio's
// applyConnectionPool, shouldH2Upgrade and setTCPKeepalive).
func withDefaults(s *mesh.Snapshot, p *seinev1.TrafficPolicy) *seinev1.TrafficPolicy {
	u := s.Upstream
	if u == nil {
		return p
	}
	out := &seinev1.TrafficPolicy{}
	if p != nil {
		out = proto.Clone(p).(*seinev1.TrafficPolicy)
	}
	if out.ConnectTimeout == nil {
		out.ConnectTimeout = u.ConnectTimeout
	}
	if out.H2Upgrade == seinev1.TrafficPolicy_H2_DEFAULT {
		out.H2Upgrade = u.H2Upgrade
	}
	if k := u.Pool.GetKeepalive(); k != nil {
		if out.Pool == nil {
			out.Pool = &seinev1.ConnectionPool{}
		}
		own := out.Pool.Keepalive
		out.Pool.Keepalive = &seinev1.ConnectionPool_Keepalive{Probes: cmp.Or(own.GetProbes(), k.Probes), Time: cmp.Or(own.GetTime(), k.Time), Interval: cmp.Or(own.GetInterval(), k.Interval)}
	}
	return out
}

// ownCredential takes the way to begin TLS from a policy whose Secret would be
// the caller's, if another namespace wrote it: nobody may have the caller's
// sidecar show a certificate to whom he likes. Connections are refused then.
func ownCredential(p *seinev1.TrafficPolicy, own bool) *seinev1.TrafficPolicy {
	o := p.GetOriginate()
	if own || o.GetCredential() == "" && !secret(o.GetClientCertificate()) && !secret(o.GetPrivateKey()) {
		return p
	}
	out := proto.Clone(p).(*seinev1.TrafficPolicy)
	out.Originate = nil
	return out
}

// secret reports whether a file is one of the Secrets that a pod gives to its
// sidecar, however the path is written: there are other ways through /proc and
// /dev, and a relative one leads wherever the sidecar stands.
func secret(file string) bool {
	if file == "" {
		return false
	}
	for _, dir := range [...]string{mesh.CredentialsDir, "/proc", "/dev"} {
		if c := path.Clean(file); c == dir || strings.HasPrefix(c, dir+"/") {
			return true
		}
	}
	return !path.IsAbs(file)
}

// forCaller completes a policy's localityLbSetting by where w is: the mesh's
// where the DestinationRule has none (Istio's GetLocalityLbSetting). Endpoints
// further away wait in reserve only together with outlierDetection.
func forCaller(s *mesh.Snapshot, w *mesh.Workload, p *seinev1.TrafficPolicy) *seinev1.TrafficPolicy {
	l := p.GetLocality()
	if l == nil {
		l = s.Locality
	}
	watched := p.GetOutlier() != nil
	if l.GetDisabled() || len(l.GetDistribute()) == 0 && !watched {
		return p
	}
	out, here := &seinev1.TrafficPolicy{}, &seinev1.Locality{}
	if p != nil {
		out = proto.Clone(p).(*seinev1.TrafficPolicy)
	}
	if l != nil {
		here = proto.Clone(l).(*seinev1.Locality)
	}
	out.Locality, here.Caller, here.FailoverActive = here, w.Locality, watched
	for _, text := range here.FailoverPriority {
		name, _, written := strings.Cut(text, "=")
		value, ok := w.Labels[name]
		if !ok && name == "topology.istio.io/cluster" {
			value, ok = s.Settings.ClusterID, true
		}
		if ok && !written {
			if here.CallerLabels == nil {
				here.CallerLabels = map[string]string{}
			}
			here.CallerLabels[name] = value
		}
	}
	return out
}

// lookUp finds what a key names: a port of a service that w sees, or a workload
// that stands for itself.
func lookUp(s *mesh.Snapshot, w *mesh.Workload, key string) (*mesh.Service, *mesh.Port, *mesh.Workload) {
	host, port, err := seinev1.ParseServiceKey(key)
	if err != nil {
		return nil, nil, nil
	}
	svc := s.Service(host, w.Namespace)
	if svc == nil || svc.Host != host {
		return nil, nil, instanceAt(s, host)
	}
	p := portOf(svc, uint32(port))
	if p == nil {
		return nil, nil, nil
	}
	return svc, p, nil
}

// DestinationRule is the one that holds for w's calls to svc, or nil. Istio's
// order: the caller's namespace, the service's, the root namespace; within one
// the most specific host; among those of the caller's own namespace one that
// selects the caller before one for all. In the root namespace itself only a
// rule for the exact host comes first, so that its catch-all rules do not hide
// those of the services.
func DestinationRule(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service) *mesh.DestinationRule {
	root := s.Settings.RootNamespace
	find := func(namespace string, own, exactOnly bool) (found *mesh.DestinationRule) {
		s.DestinationRulesOf(svc.Host, func(pattern string, list []*mesh.DestinationRule) bool {
			if exactOnly && pattern != svc.Host {
				return false
			}
			here := false
			for _, dr := range list {
				if dr.Namespace != namespace || !own && !mesh.Visible(dr.ExportTo, dr.Namespace, w.Namespace) {
					continue
				}
				here = true
				if len(dr.WorkloadSelector) == 0 {
					if found == nil {
						found = dr
					}
				} else if dr.Namespace == w.Namespace && mesh.Selects(dr.WorkloadSelector, w.Labels) {
					found = dr
					return false
				}
			}
			return !here
		})
		return found
	}
	if dr := find(w.Namespace, true, w.Namespace == root); dr != nil {
		return dr
	}
	if dr := find(svc.Namespace, false, false); dr != nil {
		return dr
	}
	return find(root, false, false)
}

// Endpoints returns the endpoints of a service's port ("FQDN/PORT"), by ID: the
// workloads that it selects, or those that a ServiceEntry writes out. Only what
// can be spoken to in mutual TLS has an identity: a workload with a sidecar
// whose policy does not disable it on that port (Istio's auto mTLS looks at
// PeerAuthentication in the same way).
func Endpoints(s *mesh.Snapshot, w *mesh.Workload, key string) []*seinev1.Endpoint {
	svc, p, t := lookUp(s, w, key)
	if t != nil {
		_, port, _ := seinev1.ParseServiceKey(key)
		if len(t.Addresses) > 0 {
			return []*seinev1.Endpoint{member(s, t, t.Addresses[0], uint32(port))}
		}
	}
	if svc == nil {
		return nil
	}
	out, listed := backends(s, w, svc, p)
	for _, m := range s.Members(svc) {
		if listed[m] || len(m.Addresses) == 0 {
			continue
		}
		if port, ok := p.TargetOn(m); ok {
			e := member(s, m, m.Addresses[0], port)
			if s.Backends != nil && m.Kind == "Pod" && svc.Kind == "Service" && !e.Unhealthy {
				e.Unhealthy, e.Aside = true, "no EndpointSlice lists it" // reached by its own name and address alone
			}
			out = append(out, e)
		}
	}
	seen := map[string]bool{}
	for i := range svc.Endpoints {
		if e := written(s, svc, p, &svc.Endpoints[i]); !seen[e.Id] {
			seen[e.Id] = true
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *seinev1.Endpoint) int { return cmp.Compare(a.Id, b.Id) })
	return out
}

func endpointID(t *mesh.Workload) string { return t.Instance }

// member is a workload as an endpoint at one of its addresses, which is dialled
// but by who has dialled another one of them.
func member(s *mesh.Snapshot, t *mesh.Workload, at netip.Addr, port uint32) *seinev1.Endpoint {
	e := &seinev1.Endpoint{
		Id: endpointID(t), Address: at.String(), Port: port, Workload: WorkloadOf(s, t),
		Labels: t.Labels, Locality: t.Locality, Weight: t.Weight, Unhealthy: t.Unhealthy,
	}
	for _, a := range t.Addresses {
		if a != at {
			e.OtherAddresses = append(e.OtherAddresses, a.String())
		}
	}
	if !t.Created.IsZero() {
		e.Created = t.Created.Unix()
	}
	if mode, _ := Mtls(s, t, port); mode == seinev1.MtlsMode_MTLS_DISABLE {
		e.Workload.Identity = ""
	}
	return e
}

// written is an endpoint of a ServiceEntry. It has an identity only if it says
// by Istio's label that it speaks the mesh's TLS.
func written(s *mesh.Snapshot, svc *mesh.Service, p *mesh.Port, from *mesh.Endpoint) *seinev1.Endpoint {
	port := p.Number
	if p.Target != 0 {
		port = p.Target
	}
	if n, ok := from.Ports[p.Name]; ok {
		port = n
	}
	if a, err := netip.ParseAddr(from.Address); err == nil {
		if t := s.WorkloadAt(a.Unmap()); t != nil { // of the mesh, known by its address
			e := member(s, t, a.Unmap(), port)
			e.Id = fmt.Sprintf("%s:%d", from.Address, port)
			return e
		}
	}
	e := &seinev1.Endpoint{
		Id: fmt.Sprintf("%s:%d", from.Address, port), Address: from.Address, Port: port,
		Labels: from.Labels, Locality: from.Locality, Weight: from.Weight,
		Workload: labelled(s, from.Namespace, "", from.Labels),
	}
	e.Workload.ServiceAccount = from.ServiceAccount
	if from.ServiceAccount != "" && from.Labels["security.istio.io/tlsMode"] == "istio" {
		e.Workload.Identity = mesh.SPIFFE(s.Settings.TrustDomain, svc.Namespace, from.ServiceAccount)
	}
	return e
}
