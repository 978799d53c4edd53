package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// StageArgs are the arguments with which a program that uses this package must
// call Stage and nothing else.
func StageArgs() []string { return []string{"up", "stage-exec"} }

// IsStage reports whether args (os.Args) are those of a stage.
func IsStage(args []string) bool {
	return len(args) == 3 && args[1] == StageArgs()[0] && args[2] == StageArgs()[1]
}

// The stage's descriptors; a program's own extra files come after them.
const (
	specFD   = 3
	statusFD = 4
	// FirstFile is the descriptor at which the program finds the first of
	// Start's files.
	FirstFile = 5
)

// StartError says why a program never ran.
type StartError struct {
	Program string
	Reason  string
}

func (e *StartError) Error() string { return fmt.Sprintf("start %s: %s", e.Program, e.Reason) }

// Launcher starts the stage's process: (*exec.Cmd).Start, or a way to do that
// in another network namespace.
type Launcher func(*exec.Cmd) error

// Start runs a program. It returns once the program has replaced the stage, or
// with a *StartError. The program's standard input is empty; out gets its
// standard output and error; files become its descriptors FirstFile and up.
// All stay the caller's to close.
func Start(spec Spec, out *os.File, files []*os.File, launch Launcher) (*Process, error) {
	if len(spec.Args) == 0 {
		return nil, &StartError{Program: "(none)", Reason: "the command is empty"}
	}
	spec.Parent = os.Getpid()
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("sandbox: encode spec: %w", err)
	}
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	defer specW.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		specR.Close()
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	defer statusR.Close()
	cmd := exec.Command("/proc/self/exe", StageArgs()...)
	cmd.Args[0] = "seine"
	cmd.Env = []string{} // the program's own comes with the spec
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = append([]*os.File{specR, statusW}, files...)
	cmd.SysProcAttr = attributes(&spec)
	err = launch(cmd)
	specR.Close()
	statusW.Close()
	if err != nil {
		return nil, &StartError{Program: spec.Args[0], Reason: err.Error()}
	}
	// A stage that died early is told by its status, not by this.
	_, _ = specW.Write(data)
	specW.Close()
	reason, _ := io.ReadAll(io.LimitReader(statusR, 4096))
	if len(reason) > 0 {
		_ = cmd.Wait()
		return nil, &StartError{Program: spec.Args[0], Reason: string(reason)}
	}
	p := &Process{proc: cmd.Process, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func attributes(spec *Spec) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	if spec.NewMount {
		a.Cloneflags |= syscall.CLONE_NEWNS
	}
	if spec.NewPID {
		a.Cloneflags |= syscall.CLONE_NEWPID
	}
	if spec.Hostname != "" {
		a.Cloneflags |= syscall.CLONE_NEWUTS
	}
	if spec.NewUser {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: spec.UID, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: spec.GID, HostID: os.Getegid(), Size: 1}}
		// A user id that is not 0 keeps these over the stage's own execve only
		// if they are ambient; the stage drops them.
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
	}
	return a
}

func send(p *os.Process, sig os.Signal) error {
	if sig == syscall.SIGTERM && ignoresTerm(p.Pid) {
		sig = syscall.SIGKILL
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sandbox: signal %s to process %d: %w", sig, p.Pid, err)
	}
	return nil
}

// ignoresTerm reports whether the process is the first of a namespace below
// ours and has no handler for SIGTERM (proc_pid_status(5): NSpid, SigCgt).
func ignoresTerm(pid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	var first, caught bool
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(value)
		switch {
		case name == "NSpid":
			first = len(fields) > 1 && fields[len(fields)-1] == "1"
		case name == "SigCgt" && len(fields) == 1:
			mask, err := strconv.ParseUint(fields[0], 16, 64)
			caught = err != nil || mask&(1<<(uint(syscall.SIGTERM)-1)) != 0
		}
	}
	return first && !caught
}
