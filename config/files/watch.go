package files

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/seinemesh/seine/config"
)

// resync is how often the paths are read without any event: the net under
// lost events (NFS, an overflowing queue).
const resync = 10 * time.Second

// patience is how long a file that had content must be empty to be believed.
const patience = time.Second

// watcher turns file events into config.Events. One goroutine, its caller's, owns it.
type watcher struct {
	s       *Source
	notify  *fsnotify.Watcher
	watched map[string]bool
	dirs    map[string]bool // folders that are read
	near    map[string][]string

	good       *config.Result
	sum        [sha256.Size]byte // of what was handled last, good or not
	handled    bool
	filled     map[string]bool // files that had content then
	emptySince time.Time       // one of them has had none since then
	lastError  string
	generation uint64
}

func newWatcher(s *Source) (*watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching configuration: %w (too many watches? see fs.inotify.max_user_instances)", err)
	}
	return &watcher{s: s, notify: n, watched: map[string]bool{}, generation: s.opt.Config.Generation}, nil
}

func (w *watcher) close() {
	if err := w.notify.Close(); err != nil {
		w.s.opt.Log.Warn("closing the watch of configuration", "error", err)
	}
}

// cover watches the folders that there are now.
func (w *watcher) cover() {
	sc, err := w.s.scan() // also what was found before an error
	w.dirs, w.near = map[string]bool{}, sc.near
	for _, d := range sc.dirs {
		w.dirs[d] = true
	}
	add := func(d string) {
		if w.watched[d] {
			return
		}
		if err := w.notify.Add(d); err != nil {
			w.s.opt.Log.Warn("a folder of configuration cannot be watched: it is read every few seconds instead", "folder", d, "error", err)
			return
		}
		w.watched[d] = true
	}
	for _, d := range sc.dirs {
		add(d)
	}
	for d := range sc.near {
		add(d)
	}
	if err != nil {
		return
	}
	for d := range w.watched {
		if !w.dirs[d] && sc.near[d] == nil {
			_ = w.notify.Remove(d) // it may have gone with its folder
			delete(w.watched, d)
		}
	}
}

// relevant reports whether something that happened to a path can change what
// would be read.
func (w *watcher) relevant(p string) bool {
	p = filepath.Clean(p)
	if w.watched[p] {
		return true
	}
	dir, base := filepath.Split(p)
	dir = filepath.Clean(dir)
	if base == "..data" { // a ConfigMap's folder was swapped
		return true
	}
	if slices.Contains(w.near[dir], base) {
		return true
	}
	// A name without extension may be a folder.
	return w.dirs[dir] && (wanted(base) || filepath.Ext(base) == "" || isDir(p))
}

func isDir(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.IsDir()
}

func (w *watcher) run(ctx context.Context, handle func(config.Event)) error {
	quiet := time.NewTimer(time.Hour)
	defer quiet.Stop()
	settle := func() {
		quiet.Stop()
		if again := w.settle(handle); again > 0 {
			quiet.Reset(again)
		}
	}
	settle()
	tick := time.NewTicker(resync)
	defer tick.Stop()
	var since time.Time // of the first event that was not read yet
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.notify.Events:
			if !ok {
				return fmt.Errorf("watching configuration: the watch has ended")
			}
			if !w.relevant(e.Name) {
				continue
			}
			if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				delete(w.watched, filepath.Clean(e.Name)) // its watch went with it
			}
			if since.IsZero() {
				since = time.Now()
			}
			// A writer that never pauses must not hold a change back for ever.
			if time.Since(since) < 20*w.s.opt.Debounce {
				quiet.Reset(w.s.opt.Debounce)
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return fmt.Errorf("watching configuration: the watch has ended")
			}
			w.s.opt.Log.Warn("watching configuration", "error", err)
			quiet.Reset(w.s.opt.Debounce)
		case <-quiet.C:
			since = time.Time{}
			settle()
		case <-tick.C:
			settle()
		}
	}
}

// settle reads after watching every folder there is: what appeared in a new one
// before it was watched is read too. It returns when to look again, if it must.
func (w *watcher) settle(handle func(config.Event)) time.Duration {
	w.cover()
	t, err := w.s.read()
	if errors.Is(err, errChanged) {
		return w.s.opt.Debounce
	}
	if err != nil {
		if err.Error() != w.lastError {
			w.lastError, w.handled = err.Error(), false
			handle(config.Event{Result: w.good, Err: err})
		}
		return 0
	}
	w.lastError = ""
	if w.handled && t.sum == w.sum {
		w.emptySince = time.Time{}
		return 0
	}
	if wait := w.truncated(t); wait > 0 {
		return wait
	}
	w.sum, w.handled, w.filled = t.sum, true, map[string]bool{}
	for _, f := range t.files {
		w.filled[filepath.FromSlash(f.Name)] = len(f.Data) > 0
	}
	r := w.s.build(t, w.generation+1)
	if err := r.Findings.Err(); err != nil {
		handle(config.Event{Result: w.good, Findings: r.Findings, Err: err})
		return 0
	}
	w.generation++
	w.good = r
	handle(config.Event{Result: r, Findings: r.Findings})
	return 0
}

// truncated holds a change back for a while in which a file that had content has
// none: many programs empty a file before they write it, and what an empty file
// says is that everything in it is gone.
func (w *watcher) truncated(t *tree) time.Duration {
	if !slices.ContainsFunc(t.empty, func(p string) bool { return w.filled[p] }) {
		w.emptySince = time.Time{}
		return 0
	}
	if w.emptySince.IsZero() {
		w.emptySince = time.Now()
	}
	return patience - time.Since(w.emptySince)
}
