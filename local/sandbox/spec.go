// Package sandbox runs a program with nothing but what it is given: no
// capabilities (or the few that are named), no way to new ones, its own view of
// files and, if asked, of processes and users.
//
// In: a Spec. Out: a running process. It works in two steps: Start clones this
// very program into new namespaces, where Stage (see there) reads the Spec from
// a pipe, mounts, drops privileges and becomes the program by execve(2). The
// process that Start returns is the program itself: no parent stays in between.
package sandbox

import "os"

// Spec says what to run and what it may see. It travels over a pipe, so it may
// hold secrets in Env that must not be seen in a process list before.
type Spec struct {
	Args []string // Args[0] is looked up in Env's PATH; with a slash it is relative to Dir
	Env  []string
	Dir  string

	// Caps are the numbers of the capabilities to keep, effective and ambient.
	Caps []uintptr
	// UID and GID to become, as the namespace that Start runs in counts them; 0
	// changes nothing.
	UID, GID int
	// NewUser gives the program a user namespace of its own, in which it is
	// UID:GID; outside it stays who Start's caller is. For unprivileged callers.
	NewUser bool
	// NewPID gives the program a process-id namespace of its own, in which it
	// is process 1, and a /proc that shows nothing else.
	NewPID bool
	// Bound kills the program when the thread that started it ends (the whole
	// process, in practice: see Start). A program in a process-id namespace of
	// somebody who dies needs it not.
	Bound bool
	// Hostname, if not empty, is the program's own name of the machine.
	Hostname string
	// NewMount gives the program mounts of its own; Hide, Keep and Files need it.
	NewMount bool
	Hide     []string          // folders that are covered by an empty, read-only file system
	Keep     []string          // files and folders below them that stay where they were
	Parent   int               // set by Start: who Bound binds to
	Files    map[string]string // path → the file that is seen there instead; a missing path is left out
}

// Process is a started program.
type Process struct {
	proc *os.Process
	done chan struct{}
	err  error
}

// PID is the program's process id as the caller's namespace counts it.
func (p *Process) PID() int { return p.proc.Pid }

// Wait returns when the program has ended: nil for exit code 0, otherwise an
// *exec.ExitError. It may be called often and from anywhere.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal. A program that is process 1 of its namespace and does
// not handle SIGTERM would ignore it, where any other would die of it: it is
// killed instead.
func (p *Process) Signal(sig os.Signal) error { return send(p.proc, sig) }
