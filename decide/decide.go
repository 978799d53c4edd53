// Package decide holds the decisions of the data plane: which rule a request
// matches, which destination a draw picks, which endpoint a balancer takes,
// whether a connection goes out in mutual TLS, whether one is let in.
//
// What enters are compiled resources of the wire (api) and the head of a
// message; what leaves is a pointer into them, an index or appended bytes. It
// is pure: no goroutine, no clock, no socket, no global, no randomness of its
// own (draws are given). Matching, picking and appending allocate nothing, so
// the proxy's loops, explain, the fuzzers and the tests run the very same code.
//
// Compiled values are immutable and may be read from any number of goroutines.
package decide

import (
	"errors"
	"fmt"
)

// ErrInvalid is wrapped by every error of a Compile function: the resource
// cannot have come from a sound control plane and must be refused (NACK).
var ErrInvalid = errors.New("invalid resource")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Table is everything that a proxy knows at one moment. It is immutable and
// published by an atomic pointer.
type Table struct {
	Self       *Self
	Answers    map[string]*Answer             // by lookup name
	Clusters   map[string]map[string]*Cluster // "FQDN/PORT" → subset, "" for the host as a whole
	Generation uint64
}

// Cluster returns the endpoints of a destination; nil if the service is not
// known (flag NC), or if it has no such subset (flag NC, as Envoy).
func (t *Table) Cluster(key, subset string) *Cluster { return t.Clusters[key][subset] }
