// Package netnstest runs a package's tests inside namespaces of their own, as
// root and as an ordinary user, so that they may make links, rules and mounts
// and leave nothing.
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	insideEnv = "SEINE_TEST_INSIDE" // set in the re-executed test binary: "root" or "user"
	nobody    = 65534
)

// Main is a TestMain. It runs the tests in new user (unless root), process,
// mount and network namespaces; as root a second time as an ordinary user. It
// exits 0, loudly, where the kernel refuses namespaces. Fuzzing needs none, and
// keeps a corpus that an ordinary user cannot read: it runs where it is.
func Main(m *testing.M) {
	if fuzzing(os.Args[1:]) {
		os.Exit(m.Run())
	}
	if os.Getenv(insideEnv) != "" {
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "netnstest:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code := 0
	if os.Geteuid() == 0 {
		code = run("root", 0)
		code = max(code, run("user", nobody))
	} else {
		code = run("user", os.Geteuid())
	}
	os.Exit(code)
}

// fuzzing reports whether the test binary is to fuzz, as coordinator or worker.
func fuzzing(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(a, "-test.fuzz=") || strings.HasPrefix(a, "-test.fuzzworker")
	})
}

// MainPlain is a TestMain without namespaces: it runs the tests where it is, and
// as root a second time as an ordinary user.
func MainPlain(m *testing.M) {
	if os.Getenv(insideEnv) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	code := m.Run()
	cmd := demoted(exec.Command("/proc/self/exe", os.Args[1:]...), nobody)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(cmd.Env, insideEnv+"=user", "HOME=/nonexistent")
	runtime.LockOSThread()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	os.Exit(max(code, exitCode("user", cmd.Run())))
}

// Unprivileged reports whether the tests run without real root.
func Unprivileged() bool { return os.Getenv(insideEnv) == "user" }

func run(mode string, uid int) int {
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"="+mode)
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if mode == "user" {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		if os.Geteuid() == 0 {
			cmd = demoted(cmd, uid)
			a.Cloneflags, a.UidMappings, a.GidMappings = 0, nil, nil
		}
	}
	cmd.SysProcAttr = merge(a, cmd.SysProcAttr)
	return exitCode(mode, cmd.Run())
}

func exitCode(mode string, err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	}
	fmt.Fprintf(os.Stderr, "=== SKIPPED as %s: this kernel refuses namespaces: %v\n", mode, err)
	return 0
}

// demoted makes cmd run as uid, which then makes its own namespaces by Main.
func demoted(cmd *exec.Cmd, uid int) *exec.Cmd {
	cmd.Env = os.Environ()
	// go test's own files are in a folder that uid cannot reach.
	cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile=") || strings.HasPrefix(a, "-test.coverprofile=") || strings.HasPrefix(a, "-test.gocoverdir=")
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return cmd
}

func merge(a, b *syscall.SysProcAttr) *syscall.SysProcAttr {
	if b != nil {
		a.Credential = b.Credential
	}
	return a
}

func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
