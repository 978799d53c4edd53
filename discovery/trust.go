package discovery

import (
	"crypto/x509"
)

// Trusting is what one proxy trusts, and what vouches for it.
type Trusting struct {
	ID     string              // NAMESPACE/INSTANCE
	Bundle string              // the name of the trust bundle that it has acknowledged; "": none yet
	Chain  []*x509.Certificate // of its certificate, leaf first. Read only.
}

// Trusting returns one element for each stream, in no order.
func (s *Server) Trusting() []Trusting {
	var out []Trusting
	for _, x := range s.streams.list() {
		x.mu.Lock()
		out = append(out, Trusting{x.id, x.trust, x.peer.chain})
		x.mu.Unlock()
	}
	return out
}
