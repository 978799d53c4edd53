package plan

import (
	"fmt"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// Choice is what a host on a port means to a caller.
type Choice struct {
	Host    string // the name that was found: an FQDN, or the host as written
	Service *mesh.Service
	Port    *mesh.Port // of Service
	Member  *mesh.Workload
	// Routes is the VirtualService whose HTTP rules hold, and Pattern the host
	// by which it is meant; nil: none.
	Routes  *mesh.VirtualService
	Pattern string
	// Attached is set where Gateway API routes hold for Service: then no
	// VirtualService is looked at.
	Attached bool
	// Why says, if neither Service nor Routes is set, why a name that is the
	// mesh's own leads nowhere; empty: the host is none of the mesh's.
	Why string
	// Outside: the host is an ExternalName without ports, which stands for
	// whatever its name leads to, on any port.
	Outside bool
	// Unlisted is the service that the host names and that w's Sidecar bars it from.
	Unlisted *mesh.Service
	// Passed are sentences about VirtualServices that name the host but do not
	// hold here.
	Passed []string
}

// names are what a host that a workload of a namespace writes may stand for,
// in order: the name itself, then as Kubernetes' services are called within the
// cluster ("name" in the caller's own namespace, "name.ns", "name.ns.svc").
func names(s *mesh.Snapshot, namespace, host string) []string {
	domain := ".svc." + s.Settings.ClusterDomain
	switch {
	case strings.HasSuffix(host, domain):
		return []string{host}
	case !strings.Contains(host, "."):
		return []string{host, host + "." + namespace + domain}
	case strings.HasSuffix(host, ".svc"):
		return []string{host, host + "." + s.Settings.ClusterDomain}
	}
	return []string{host, host + domain}
}

// ChooseHost finds what host, in lower case and without port, means to w on the
// port that it dialled: the service, chosen by name among all that w sees on
// that port, and the VirtualService that routes it.
func ChooseHost(s *mesh.Snapshot, w *mesh.Workload, host string, port uint32) Choice {
	c := Choice{Host: host}
	full := names(s, w.Namespace, host)
	for _, name := range full {
		if c.take(s, w, name, port) {
			break
		}
	}
	if c.Service == nil {
		// "db-0.db" is of the caller's own namespace
		for _, name := range append(full[:len(full):len(full)], host+"."+w.Namespace+".svc."+s.Settings.ClusterDomain) {
			if c.takeMember(s, w, name, port) {
				break
			}
		}
	}
	if c.Service == nil {
		if svc := s.Service(host, w.Namespace); svc != nil && strings.HasPrefix(svc.Host, "*") {
			if p := portOf(svc, port); p != nil && unlisted(s, w, svc, port) != nil {
				c.Unlisted = svc
			} else if p != nil {
				c.Service, c.Port = svc, p
			} else {
				c.Why = fmt.Sprintf("%s has no port %d (%s)", svc.Host, port, portList(svc))
			}
		}
	}
	if c.Service == nil && c.Unlisted != nil {
		c.Why, c.Outside = "", false
		return c
	}
	c.chooseRoutes(s, w, port)
	if c.Service != nil || c.Routes != nil {
		c.Why, c.Outside = "", false
	} else if c.Outside {
		c.Why = ""
	} else if name := full[len(full)-1]; c.Why == "" && strings.HasSuffix(name, ".svc."+s.Settings.ClusterDomain) && (len(full) == 1 || strings.HasSuffix(host, ".svc")) {
		c.Why = fmt.Sprintf("there is no service %s", name)
	}
	return c
}

// take takes the service of that exact name if it has the port.
func (c *Choice) take(s *mesh.Snapshot, w *mesh.Workload, name string, port uint32) bool {
	svc := s.Service(name, w.Namespace)
	if svc == nil || svc.Host != name {
		if hidden := anyNamespace(s, name); hidden != nil && c.Why == "" {
			c.Why = fmt.Sprintf("%s is not exported to namespace %s (exportTo of %s)", name, w.Namespace, refName(hidden.Ref))
		}
		return false
	}
	if to := aliased(s, w, svc); to != nil {
		name, svc = to.Host, to
	}
	p := portOf(svc, port)
	if p == nil {
		if svc.Kind == "Service" && svc.External && len(svc.Ports) == 0 {
			c.Outside = true
		} else if c.Why == "" {
			c.Why = fmt.Sprintf("%s has no port %d (%s)", svc.Host, port, portList(svc))
		}
		return false
	}
	if unlisted(s, w, svc, port) != nil {
		c.Unlisted = svc
		return false
	}
	c.Host, c.Service, c.Port = name, svc, p
	return true
}

// aliased is the service of the mesh that an ExternalName stands for, or nil:
// such a name is another one for that service, with its routes, policies and
// identities (Istio's ENABLE_EXTERNAL_NAME_ALIAS). A chain of them is followed.
func aliased(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service) *mesh.Service {
	var found *mesh.Service
	for range 8 {
		if svc.Kind != "Service" || !svc.External || len(svc.Endpoints) != 1 {
			return found
		}
		to := svc.Endpoints[0].Address
		next := s.Service(to, w.Namespace)
		if next == nil || next.Host != to {
			return found
		}
		found, svc = next, next
	}
	return nil // they stand for each other
}

// takeMember takes INSTANCE.SERVICE of a headless service: that instance, as
// its DNS name promises.
func (c *Choice) takeMember(s *mesh.Snapshot, w *mesh.Workload, name string, port uint32) bool {
	first, rest, ok := strings.Cut(name, ".")
	if !ok || !strings.HasSuffix(rest, ".svc."+s.Settings.ClusterDomain) {
		return false
	}
	svc := s.Service(rest, w.Namespace)
	if svc == nil || svc.Host != rest || !svc.Headless {
		return false
	}
	p := portOf(svc, port)
	if p == nil {
		return false
	}
	if unlisted(s, w, svc, port) != nil {
		c.Unlisted = svc
		return false
	}
	for _, m := range s.Members(svc) {
		if m.Instance == first {
			if _, ok := p.TargetOn(m); ok {
				c.Host, c.Service, c.Port, c.Member = rest, svc, p, m
				return true
			}
		}
	}
	return false
}

func anyNamespace(s *mesh.Snapshot, host string) *mesh.Service {
	for _, svc := range s.Services {
		if svc.Host == host {
			return svc
		}
	}
	return nil
}

// chooseRoutes finds the VirtualService: exact host before the longest
// wildcard, the first in the Snapshot's order where several claim one host. One
// whose every rule is for other callers counts as if it were not there (Istio's
// BuildHTTPRoutesForVirtualService); behind a wildcard no other is tried.
func (c *Choice) chooseRoutes(s *mesh.Snapshot, w *mesh.Workload, port uint32) {
	if c.Service != nil && opaque(c.Port.Protocol) {
		return
	}
	if c.Service != nil && c.Member == nil && len(GatewayRules(s, w, c.Service, c.Port)) > 0 {
		c.Attached = true
		return
	}
	if c.Service != nil && !strings.HasPrefix(c.Service.Host, "*") {
		s.VirtualServicesOf(c.Service.Host, func(pattern string, list []*mesh.VirtualService) bool {
			return !c.chooseAmong(s, w, port, pattern, list, strings.HasPrefix(pattern, "*"), nil)
		})
		return
	}
	for _, name := range names(s, w.Namespace, c.Host) {
		done := false
		s.VirtualServicesOf(name, func(pattern string, list []*mesh.VirtualService) bool {
			wild := strings.HasPrefix(pattern, "*")
			if c.Service != nil && wild && len(pattern) < len(c.Service.Host) {
				return false // the service's own wildcard is more specific
			}
			if c.Service == nil && wild && coversService(s, w, pattern, port) {
				return true // it is about those services, not about unknown hosts
			}
			done = c.chooseAmong(s, w, port, pattern, list, wild, func(vs *mesh.VirtualService) bool {
				return c.Service != nil || port == 80 || onPort(s, w, vs, port)
			})
			return !done
		})
		if done {
			return
		}
	}
}

// chooseAmong looks at the VirtualServices of one host; true if the search ends
// with them.
func (c *Choice) chooseAmong(s *mesh.Snapshot, w *mesh.Workload, port uint32, pattern string, list []*mesh.VirtualService, onlyFirst bool, on func(*mesh.VirtualService) bool) bool {
	ends := false
	for _, vs := range list {
		if why := Unseen(vs, w); why != "" {
			c.Passed = append(c.Passed, refName(vs.Ref)+" "+why)
			continue
		}
		if on != nil && !on(vs) {
			c.Passed = append(c.Passed, fmt.Sprintf("%s is not looked at: none of its hosts is an HTTP service with port %d, and others count on port 80 only", refName(vs.Ref), port))
			continue
		}
		ends = true
		for _, r := range vs.HTTP {
			if HTTPMatches(r, w, port) != nil {
				c.Routes, c.Pattern = vs, pattern
				return true
			}
		}
		if len(vs.HTTP) == 0 {
			c.Passed = append(c.Passed, refName(vs.Ref)+" has no HTTP rules")
		} else {
			c.Passed = append(c.Passed, fmt.Sprintf("%s has no rule for this caller on port %d", refName(vs.Ref), port))
		}
		if onlyFirst {
			return true
		}
	}
	return ends
}

// Unseen says why w does not see a VirtualService; "" if it does.
func Unseen(vs *mesh.VirtualService, w *mesh.Workload) string {
	if !mesh.Visible(vs.ExportTo, vs.Namespace, w.Namespace) {
		return "is not exported to namespace " + w.Namespace
	}
	for _, g := range vs.Gateways {
		if g == "mesh" {
			return ""
		}
	}
	return fmt.Sprintf("holds for the gateways %s, not for sidecars (mesh)", strings.Join(vs.Gateways, ", "))
}

// onPort reports whether one of vs's hosts is an HTTP service with that port.
func onPort(s *mesh.Snapshot, w *mesh.Workload, vs *mesh.VirtualService, port uint32) bool {
	for _, h := range vs.Hosts {
		if coversService(s, w, h, port) {
			return true
		}
	}
	return false
}

// coversService reports whether pattern covers a service with that HTTP port.
func coversService(s *mesh.Snapshot, w *mesh.Workload, pattern string, port uint32) bool {
	if !strings.HasPrefix(pattern, "*") {
		svc := s.Service(pattern, w.Namespace)
		p := (*mesh.Port)(nil)
		if svc != nil {
			p = portOf(svc, port)
		}
		return p != nil && !opaque(p.Protocol)
	}
	for _, svc := range s.Services {
		if mesh.HostMatches(pattern, svc.Host) && mesh.Visible(svc.ExportTo, svc.Namespace, w.Namespace) {
			if p := portOf(svc, port); p != nil && !opaque(p.Protocol) {
				return true
			}
		}
	}
	return false
}

func refName(r mesh.Ref) string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	out := fmt.Sprintf("%s %q", r.Kind, name)
	if r.File != "" {
		out += fmt.Sprintf(" (%s:%d)", r.File, r.Line)
	}
	return out
}

// HTTPMatches are the positions of the matches of r that can apply to w on
// port; empty and not nil if r has none and takes everything; nil if r is not
// for w.
func HTTPMatches(r *seinev1.HttpRule, w *mesh.Workload, port uint32) []int {
	keep := []int{}
	for i, m := range r.Match {
		if NotFor(m, w, port) == "" {
			keep = append(keep, i)
		}
	}
	if len(keep) == 0 && len(r.Match) > 0 {
		return nil
	}
	return keep
}

// NotFor says why a match cannot apply to w on port; "" if it can. As in Istio,
// source labels and namespace are not looked at where the match names gateways.
func NotFor(m *seinev1.HttpMatch, w *mesh.Workload, port uint32) string {
	if m.Port != 0 && m.Port != port {
		return fmt.Sprintf("is for port %d, not %d", m.Port, port)
	}
	return notFrom(w, m.Gateways, m.SourceLabels, m.SourceNamespace)
}

func notFrom(w *mesh.Workload, gateways []string, labels map[string]string, namespace string) string {
	if len(gateways) > 0 {
		for _, g := range gateways {
			if g == "mesh" {
				return ""
			}
		}
		return fmt.Sprintf("is for the gateways %s", strings.Join(gateways, ", "))
	}
	if !mesh.Selects(labels, w.Labels) {
		return fmt.Sprintf("is for callers with the labels %s, and %s has not got them", labelList(labels), w.Key())
	}
	if namespace != "" && namespace != w.Namespace {
		return fmt.Sprintf("is for callers of namespace %s, not %s", namespace, w.Namespace)
	}
	return ""
}
