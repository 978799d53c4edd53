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
	Debounce   time.Duration // how long things must be quiet before they are read; 50 ms if zero
	Log        *slog.Logger  // nil: discard
}

// Source reads paths.
type Source struct{ opt Options }

// New makes a Source; nothing is read yet.
func New(opt Options) *Source {
	if opt.Debounce <= 0 {
		opt.Debounce = 50 * time.Millisecond
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{opt: opt}
}

// Load reads everything once. The Result is there whenever the files could be
// read; err is then a *config.RefusedError if a resource was refused.
func (s *Source) Load(context.Context) (*config.Result, error) {
	t, err := s.read()
	if err != nil {
		return nil, err
	}
	r := s.build(t, s.opt.Config.Generation)
	return r, r.Findings.Err()
}

func (s *Source) build(t *tree, generation uint64) *config.Result {
	opt := s.opt.Config
	opt.Generation = generation
	if t.meshConfig != nil {
		opt.MeshConfig = t.meshConfig
	}
	return config.Build(t.files, opt)
}

// Load reads opt.Paths once: New(opt).Load().
func Load(opt Options) (*config.Result, error) { return New(opt).Load(context.Background()) }

// Read gives the files as they are, for who builds more than them. The
// MeshConfig is nil if Options name none.
func Read(opt Options) ([]config.File, *config.File, error) {
	t, err := New(opt).read()
	if err != nil {
		return nil, nil, err
	}
	return t.files, t.meshConfig, nil
}

// Watch calls handle with what is there now and again after each change of
// content, one call at a time, until ctx ends. It returns ctx's error, or why
// watching cannot go on. Generations count from Options.Config.Generation.
//
// Nothing is read before the paths have been quiet for the debounce time, and
// what is read counts only if no file changed meanwhile, so that an editor's
// several writes, a `git checkout` and the ..data swap of a ConfigMap are one
// change each. Deleting a file is a change; deleting a named path is an error,
// and the last good Result stays.
func (s *Source) Watch(ctx context.Context, handle func(config.Event)) error {
	w, err := newWatcher(s)
	if err != nil {
		return err
	}
	defer w.close()
	return w.run(ctx, handle)
}
