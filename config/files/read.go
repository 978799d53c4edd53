package files

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seinemesh/seine/config"
)

// Bounds of everything that is read.
const (
	maxFiles = 20_000
	maxTotal = 256 << 20
	maxDepth = 32
)

// ErrNoFiles says that the paths hold nothing to read.
var ErrNoFiles = errors.New("no *.yaml, *.yml or *.json file")

// errChanged says that something changed while it was read: read it again.
var errChanged = errors.New("files changed while they were read")

// tree is what stood in the paths at one moment.
type tree struct {
	files      []config.File
	meshConfig *config.File
	empty      []string // files without a byte
	sum        [sha256.Size]byte
}

// stamp tells whether a file is still the one that was read.
type stamp struct {
	size int64
	mod  time.Time
	ino  uint64
}

func stampOf(i fs.FileInfo) stamp { return stamp{i.Size(), i.ModTime(), inode(i)} }

// wanted reports whether a file of a folder is a resource file: no hidden one,
// and none that an editor leaves behind.
func wanted(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// scan finds the files of all paths, in the order of the paths and by name
// within a folder. Links are followed, to each target once.
type scan struct {
	files []string
	seen  map[string]bool // targets of links and folders, resolved
	dirs  []string        // folders that are read
	// near are folders in which only these names matter: those around the paths
	// themselves.
	near map[string][]string
}

// beside notes that p matters to the folder that it stands in.
func (s *scan) beside(p string) {
	dir := filepath.Dir(p)
	if s.near == nil {
		s.near = map[string][]string{}
	}
	s.near[dir] = append(s.near[dir], filepath.Base(p))
}

// named notes a path that the user named and what it links to.
func (s *scan) named(p string) {
	s.beside(p)
	if target, err := filepath.EvalSymlinks(p); err == nil && target != p {
		s.beside(target)
	}
}

func (s *scan) path(p string) error {
	s.named(p)
	info, err := os.Stat(p)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("reading configuration: %s is neither a file nor a folder", p)
		}
		return s.file(p)
	}
	return s.folder(p, 0)
}

func (s *scan) file(p string) error {
	target, err := filepath.EvalSymlinks(p)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if s.seen[target] {
		return nil
	}
	s.seen[target] = true
	if len(s.files) >= maxFiles {
		return fmt.Errorf("reading configuration: more than %d files: name a smaller folder", maxFiles)
	}
	s.files = append(s.files, p)
	return nil
}

func (s *scan) folder(dir string, depth int) error {
	target, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if s.seen[target] {
		return nil
	}
	s.seen[target] = true
	if depth > maxDepth || len(s.dirs) > maxFiles {
		return fmt.Errorf("reading configuration: %s lies too deep: name a smaller folder", dir)
	}
	s.dirs = append(s.dirs, dir)
	list, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	for _, e := range list {
		p := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") { // ..data too: what it holds is linked beside it
			continue
		}
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if e.Type()&fs.ModeSymlink != 0 {
				continue // a link to nowhere: Emacs' locks, a ConfigMap that is being swapped
			}
			return errChanged
		case err != nil:
			return fmt.Errorf("reading configuration: %w", err)
		case info.IsDir():
			err = s.folder(p, depth+1)
		case info.Mode().IsRegular() && wanted(e.Name()):
			err = s.file(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read takes everything in at one moment, or says errChanged.
func (s *Source) read() (*tree, error) {
	for range 20 {
		t, err := s.readOnce()
		if !errors.Is(err, errChanged) {
			return t, err
		}
	}
	return nil, fmt.Errorf("reading configuration: %w, again and again", errChanged)
}

func (s *Source) scan() (*scan, error) {
	sc := &scan{seen: map[string]bool{}}
	if s.opt.MeshConfig != "" {
		sc.named(filepath.Clean(s.opt.MeshConfig))
	}
	for _, p := range s.opt.Paths {
		if err := sc.path(filepath.Clean(p)); err != nil {
			return sc, err
		}
	}
	return sc, nil
}

func (s *Source) readOnce() (*tree, error) {
	sc, err := s.scan()
	if err != nil {
		return nil, err
	}
	if len(sc.files) == 0 && (len(s.opt.Paths) > 0 || s.opt.MeshConfig == "") {
		return nil, fmt.Errorf("reading configuration: %w in %s", ErrNoFiles, strings.Join(s.opt.Paths, ", "))
	}
	t := &tree{}
	h := sha256.New()
	stamps := map[string]stamp{}
	total := int64(0)
	take := func(p string) (config.File, error) {
		data, st, err := readFile(p)
		if err != nil {
			return config.File{}, err
		}
		if len(data) == 0 {
			t.empty = append(t.empty, p)
		}
		if total += int64(len(data)); total > maxTotal {
			return config.File{}, fmt.Errorf("reading configuration: more than %d MiB: name a smaller folder", maxTotal>>20)
		}
		stamps[p] = st
		fmt.Fprintf(h, "%d %s %d ", len(p), p, len(data))
		h.Write(data)
		return config.File{Name: filepath.ToSlash(p), Data: data}, nil
	}
	for _, p := range sc.files {
		f, err := take(p)
		if err != nil {
			return nil, err
		}
		t.files = append(t.files, f)
	}
	if p := s.opt.MeshConfig; p != "" {
		f, err := take(p)
		if err != nil {
			return nil, err
		}
		t.meshConfig = &f
	}
	// Nothing may have changed since the first byte was read.
	again, err := s.scan()
	if err != nil || !slices.Equal(again.files, sc.files) {
		return nil, errChanged
	}
	for p, st := range stamps {
		if info, err := os.Stat(p); err != nil || stampOf(info) != st {
			return nil, errChanged
		}
	}
	h.Sum(t.sum[:0])
	return t, nil
}

func readFile(p string) ([]byte, stamp, error) {
	f, err := os.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Lstat(p); gone != nil {
			return nil, stamp{}, fmt.Errorf("reading configuration: %w", errors.Join(errChanged, err))
		}
	}
	if err != nil {
		return nil, stamp{}, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, fmt.Errorf("reading configuration: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, config.MaxFileBytes+1))
	if err != nil {
		return nil, stamp{}, fmt.Errorf("reading configuration: %w", err)
	}
	return data, stampOf(info), nil
}
