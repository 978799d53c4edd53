package plan

import (
	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// sidecarOf is the Sidecar that holds for w: that of its namespace which
// selects it, that of its namespace for all, the root namespace's for all; of
// several at one level the first in the Snapshot's order (Istio's Sidecar: the
// behavior with several is undefined).
func sidecarOf(s *mesh.Snapshot, w *mesh.Workload) *mesh.Sidecar {
	var namespace, whole *mesh.Sidecar
	for _, c := range s.Sidecars {
		switch {
		case len(c.Selector) > 0:
			if c.Namespace == w.Namespace && mesh.Selects(c.Selector, w.Labels) {
				return c
			}
		case c.Namespace == w.Namespace:
			if namespace == nil {
				namespace = c
			}
		case c.Namespace == s.Settings.RootNamespace:
			if whole == nil {
				whole = c
			}
		}
	}
	if namespace != nil {
		return namespace
	}
	return whole
}

// registryOnly reports whether w may call only what the mesh knows, and the
// Sidecar that says so (nil: the mesh's settings do).
func registryOnly(s *mesh.Snapshot, w *mesh.Workload) (bool, *mesh.Sidecar) {
	c := sidecarOf(s, w)
	if c == nil || c.RegistryOnly == nil {
		return s.Settings.RegistryOnly, nil
	}
	return *c.RegistryOnly, c
}

// unlisted is the Sidecar that bars w from a service's port: under REGISTRY_ONLY
// its egress does not name the service. Under ALLOW_ANY it bars nothing, as in
// Istio; but where Istio then sends such calls on in plaintext, past every
// route and policy, here they are what they are for everybody.
func unlisted(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, port uint32) *mesh.Sidecar {
	if len(s.Sidecars) == 0 {
		return nil
	}
	c := sidecarOf(s, w)
	if c == nil || len(c.Egress) == 0 {
		return nil
	}
	if only, _ := registryOnly(s, w); !only {
		return nil
	}
	for _, e := range c.Egress {
		if (e.Port == 0 || e.Port == port) && (e.Namespace == "*" || e.Namespace == svc.Namespace) && (e.Host == "*" || mesh.HostMatches(e.Host, svc.Host)) {
			return nil
		}
	}
	return c
}

// barred is the answer where a Sidecar bars w from what.
func barred(by *mesh.Sidecar, what string) *seinev1.Answer {
	return &seinev1.Answer{
		Kind: seinev1.Answer_BLACKHOLE, Source: by.Proto(),
		Reason: what + " is not among the egress hosts of " + refName(by.Ref) + ", and outboundTrafficPolicy is REGISTRY_ONLY",
	}
}
