package kube

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// set is the custom resources of one build, so that replicas can tell each other
// what they have without sharing a count of generations.
type set struct {
	digest string
	since  uint64 // the first generation of the mesh that has it
}

// setsMost bounds how many are remembered.
const setsMost = 64

// note remembers what a build took. s.mu is held.
func (s *Source) note(in *input, generation uint64) {
	h := sha256.New()
	for _, r := range in.resources {
		if r.resource != "" {
			fmt.Fprintf(h, "%s %s %d\n", r.uid, r.id, r.generation)
		}
	}
	digest := base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
	if n := len(s.sets); n > 0 && s.sets[n-1].digest == digest {
		return
	}
	s.sets = append(s.sets, set{digest, generation})
	if len(s.sets) > setsMost {
		s.sets = append([]set(nil), s.sets[1:]...)
	}
}

// Digest is that of the custom resources that a generation of the mesh has; ""
// if that is not known any more.
func (s *Source) Digest(generation uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sets) - 1; i >= 0; i-- {
		if s.sets[i].since <= generation {
			return s.sets[i].digest
		}
	}
	return ""
}

// Generation is the newest generation of this replica's mesh from which on it had
// the custom resources of a digest.
func (s *Source) Generation(digest string) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sets) - 1; i >= 0; i-- {
		if s.sets[i].digest == digest {
			return s.sets[i].since, true
		}
	}
	return 0, false
}
