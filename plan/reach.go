package plan

import (
	"net/netip"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// Reached reports whether w may be told something else under a name of a type in s
// than in a Snapshot from which s differs by d (nil: nobody knows), w being the same
// to its peers in both. It may say yes in vain, and never no in error: what it says
// no to is not planned again.
func Reached(s *mesh.Snapshot, d *mesh.Delta, w *mesh.Workload, typeURL, name string) bool {
	if d == nil {
		return true
	}
	switch typeURL {
	case seinev1.TypeSelf:
		_, is := d.Workloads[w.Key()]
		return is || d.Strays
	case seinev1.TypeEndpoint, seinev1.TypeService:
		host, _, ok := strings.Cut(name, "/") // FQDN/PORT, FQDN/PORT/*
		if !ok || strings.HasSuffix(host, ".pod."+s.Settings.ClusterDomain) {
			return true // a workload by its own name
		}
		_, is := d.Services[host]
		return is && typeURL == seinev1.TypeEndpoint
	case seinev1.TypeAnswer:
		return answerReached(d, name)
	}
	return true
}

// answerReached: workloads matter to an answer where their address is asked about, or
// one by its name before a headless service's.
func answerReached(d *mesh.Delta, name string) bool {
	n, err := seinev1.ParseAnswerName(name)
	if err != nil {
		return true
	}
	if n.SNI {
		return false
	}
	a := n.Address.Addr()
	if !a.IsValid() {
		var err error
		if a, err = netip.ParseAddr(n.Host); err != nil {
			first, _, _ := strings.Cut(n.Host, ".")
			_, is := d.Instances[first]
			return is
		}
	}
	_, is := d.Addresses[a.Unmap()]
	return is
}
