package local

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// names are those of the mesh that runs: what its resolver answers by. Its methods
// may be called from any goroutine.
type names struct{ snapshot atomic.Pointer[mesh.Snapshot] }

// lookup is a dns.Options.Lookup: a short name is one of the asking workload's
// namespace.
func (n *names) lookup(from netip.Addr, name string) (addrs []netip.Addr, zone string) {
	s := n.snapshot.Load()
	if s == nil {
		return nil, mesh.DefaultSettings().ClusterDomain
	}
	namespace := "default"
	if w := s.WorkloadAt(from); w != nil {
		namespace = w.Namespace
	}
	if addrs, known := config.Lookup(s, namespace, name); known && len(addrs) > 0 {
		return addrs, ""
	}
	// A single label is what only a mesh knows; a headless service without instances
	// does not exist, as CoreDNS has it.
	domain := s.Settings.ClusterDomain
	if !strings.Contains(name, ".") || name == domain || strings.HasSuffix(name, "."+domain) {
		return nil, domain
	}
	return nil, ""
}
