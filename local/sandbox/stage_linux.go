package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stage turns this process into the program that Start's Spec names. It does
// not return: a failure is told to Start over the status pipe.
func Stage() {
	runtime.LockOSThread() // capabilities are a thread's own; execve takes this one's
	syscall.CloseOnExec(specFD)
	syscall.CloseOnExec(statusFD)
	status := os.NewFile(statusFD, "status")
	err := stage(os.NewFile(specFD, "spec"))
	if status != nil {
		fmt.Fprint(status, err)
	}
	os.Exit(125)
}

func stage(in io.Reader) error {
	var spec Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("read the sandbox's description: %w", err)
	}
	if spec.NewMount {
		if err := mounts(&spec); err != nil {
			return err
		}
	}
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set the host's name: %w", err)
		}
	}
	if err := os.Chdir(or(spec.Dir, "/")); err != nil {
		return fmt.Errorf("working folder: %w", err)
	}
	path, err := look(spec.Args[0], spec.Env)
	if err != nil {
		return err
	}
	if err := drop(&spec); err != nil {
		return err
	}
	if spec.Bound {
		// After drop, for a change of credentials clears it; on this thread, for
		// it is a thread's own and execve keeps this one's.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fmt.Errorf("bind to the parent's life: %w", err)
		}
		if os.Getppid() != spec.Parent {
			return errors.New("the process that started this one is gone")
		}
	}
	if err := syscall.Exec(path, spec.Args, spec.Env); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// look finds the program as the program's own environment says.
func look(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range slices.Backward(env) {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return "", err
			}
			break
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: no such program in PATH", name)
	}
	return path, nil
}

func mounts(spec *Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, path := range slices.Sorted(maps.Keys(spec.Files)) {
		if err := bind(spec.Files[path], path); err != nil {
			return err
		}
	}
	if err := hide(spec.Hide, spec.Keep); err != nil {
		return err
	}
	if !spec.NewPID {
		return nil
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// bind shows file at path, following path's links; a path that does not exist
// is left out: this package creates nothing outside its own mounts.
func bind(file, path string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bind over %s: %w", path, err)
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s over %s: %w", file, path, err)
	}
	return nil
}

// hide covers folders but for what is to be kept. What is kept is taken as
// detached mounts first and moved back into the cover.
func hide(folders, keep []string) error {
	type kept struct {
		path  string
		fd    int
		isDir bool
	}
	var mounts []kept
	for _, path := range keep {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		defer unix.Close(fd)
		mounts = append(mounts, kept{path, fd, info.IsDir()})
	}
	for _, folder := range folders {
		if err := unix.Mount("seine", folder, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=0755"); err != nil {
			return fmt.Errorf("hide %s: %w", folder, err)
		}
	}
	for _, k := range mounts {
		if err := point(k.path, k.isDir); err != nil {
			return fmt.Errorf("keep %s: %w", k.path, err)
		}
		if err := unix.MoveMount(k.fd, "", unix.AT_FDCWD, k.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("keep %s: %w", k.path, err)
		}
	}
	for _, folder := range folders {
		flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
		if err := unix.Mount("", folder, "", flags, ""); err != nil {
			return fmt.Errorf("hide %s: make it read-only: %w", folder, err)
		}
	}
	return nil
}

// point makes something to mount on, unless it is there (a path that was not hidden).
func point(path string, isDir bool) error {
	if isDir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if errors.Is(err, syscall.ENXIO) { // a socket that is there
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// drop gives up every privilege that the spec does not name, for good: the
// bounding set is cut, no_new_privs is set, and user id 0 means nothing.
func drop(spec *Spec) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data == ([2]unix.CapUserData{}) && len(spec.Caps) == 0 {
		return nil // an ordinary user: there is nothing to drop, nor a way to get more
	}
	var keep [2]uint32
	for _, c := range spec.Caps {
		keep[c/32] |= 1 << (c % 32)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if keep[c/32]&(1<<(c%32)) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	const noRoot, noRootLocked = 1 << 0, 1 << 1 // linux/securebits.h
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot|noRootLocked, 0, 0, 0); err != nil {
		return fmt.Errorf("set securebits: %w", err)
	}
	if !spec.NewUser && (spec.UID != 0 || spec.GID != 0) {
		if err := become(spec.UID, spec.GID); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for i := range data {
		data[i] = unix.CapUserData{Effective: keep[i], Permitted: keep[i], Inheritable: keep[i]}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	for _, c := range spec.Caps {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability %d: %w", c, err)
		}
	}
	return nil
}

// become changes this thread's ids; capabilities stay until capset.
func become(uid, gid int) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities over setuid: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("setgroups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
		return fmt.Errorf("setresgid %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return fmt.Errorf("setresuid %d: %w", uid, errno)
	}
	return nil
}
