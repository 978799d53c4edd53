// Package rundir says where a mesh on this machine keeps its things: the run
// folder, which is gone when the mesh is, and the state folder, which stays.
//
// The run folder is $XDG_RUNTIME_DIR/seine, or ~/.seine/run where there is no
// such variable (or its folder is somebody else's, as under su), or
// seine-UID in the folder for temporary files for a user without home. The
// state folder is ~/.seine/state, or "state" beside such a run folder.
package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of what lies in a run folder.
const (
	SocketName = "seined.sock"
	linkName   = "dashboard"
	lockName   = "lock"

	// Logs is the folder of what the programs wrote.
	Logs = "logs"
)

// maxPath is what fits in sockaddr_un.sun_path with its final zero byte.
const maxPath = 107

// Default is the run folder that `seine up` takes if nobody says another.
func Default() string {
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) && mine(d) {
		return filepath.Join(d, "seine")
	}
	if home, ok := home(); ok {
		return filepath.Join(home, ".seine", "run")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("seine-%d", os.Getuid()))
}

// DefaultState is the state folder that `seine up` takes if nobody says another.
func DefaultState() string {
	if home, ok := home(); ok {
		return filepath.Join(home, ".seine", "state")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("seine-%d-state", os.Getuid()))
}

// Socket is the control plane's socket in run folder dir.
func Socket(dir string) string { return filepath.Join(dir, SocketName) }

// Dashboard is the file in run folder dir that holds the dashboard's link, with the
// token of the run.
func Dashboard(dir string) string { return filepath.Join(dir, linkName) }

// Log is the file in run folder dir that holds what a program wrote: seined,
// NAMESPACE.INSTANCE, NAMESPACE.INSTANCE.proxy.
func Log(dir, program string) string { return filepath.Join(dir, Logs, program+".log") }

func home() (string, bool) {
	h, err := os.UserHomeDir()
	return h, err == nil && filepath.IsAbs(h) && mine(h)
}

// ErrInUse is a run folder that another mesh holds.
var ErrInUse = errors.New("another seine up is running")

// Dir is a run folder that this process holds.
type Dir struct {
	Path string
	lock *os.File
}

// Take makes the folder, 0700, takes it for this process until Close, and
// removes what a mesh that was killed left there.
func Take(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	if longest := filepath.Join(path, SocketName); len(longest) > maxPath {
		return nil, fmt.Errorf("run folder %s: the path of a socket in it would be %d bytes long and the kernel takes %d: choose a shorter one with --run-dir", path, len(longest), maxPath)
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() && mine(path) {
		if err := empty(path); err != nil {
			return nil, fmt.Errorf("run folder: %w", err)
		}
	}
	if err := Private(path); err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	if err := flock(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w in %s: stop it first, or give this one a folder of its own with --run-dir", ErrInUse, path)
	}
	// Whoever held it may have removed it since it was opened.
	if now, err := os.Stat(lock.Name()); err != nil || !same(lock, now) {
		lock.Close()
		return nil, fmt.Errorf("%w in %s: it is just ending, try again", ErrInUse, path)
	}
	d := &Dir{Path: path, lock: lock}
	if err := d.clear(""); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// empty holds that nothing in the folder is anybody's but a mesh's: it is going to
// be removed.
func empty(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	other := ""
	for _, e := range entries {
		switch e.Name() {
		case lockName:
			return nil // of a mesh that was killed
		case Logs: // what one left to be read
		default:
			other = e.Name()
		}
	}
	if other != "" {
		return fmt.Errorf("%s holds things that are no mesh's (%s), and a run folder is emptied: choose another with --run-dir, which need not exist", path, other)
	}
	return nil
}

func same(f *os.File, info fs.FileInfo) bool {
	mine, err := f.Stat()
	return err == nil && os.SameFile(mine, info)
}

func (d *Dir) clear(keep string) error {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return fmt.Errorf("run folder: %w", err)
	}
	for _, e := range entries {
		if e.Name() == lockName || e.Name() == keep {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.Path, e.Name())); err != nil {
			return fmt.Errorf("run folder: remove what an earlier mesh left: %w", err)
		}
	}
	return nil
}

// Close lets the folder go, and removes it with all that is in it but, if not
// "", what is called keep.
func (d *Dir) Close(keep string) error {
	defer d.lock.Close()
	if err := d.clear(keep); err != nil {
		return err
	}
	// The lock goes last: whoever waits for it makes a new one.
	if err := os.Remove(filepath.Join(d.Path, lockName)); err != nil {
		return fmt.Errorf("run folder: %w", err)
	}
	if keep != "" {
		return nil
	}
	if err := os.Remove(d.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("run folder: %w", err)
	}
	return nil
}

// Private makes a folder that only its owner may enter, or checks that one is.
func Private(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() || !mine(path) {
		return fmt.Errorf("%s is not a folder of this user: remove it or choose another", path)
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(path, 0o700)
	}
	return nil
}
