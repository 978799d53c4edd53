package local

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/seinemesh/seine/local/process"
	"github.com/seinemesh/seine/local/rundir"
	"github.com/seinemesh/seine/local/sandbox"
)

// seined says how to keep the control plane running. It has no capabilities; it
// sees the host's files, for it reads the user's resources.
func (r *runner) seined() process.Options {
	log := r.sink("seined", "", 0, func(line string) {
		r.mu.Lock()
		r.control.last = line
		r.mu.Unlock()
	})
	return process.Options{
		Start: func() (process.Program, error) {
			// A socket that a killed seined left would refuse its successor.
			if err := os.Remove(rundir.Socket(r.RunDir)); err != nil && !os.IsNotExist(err) {
				return nil, err
			}
			cwd, err := os.Getwd()
			if err != nil {
				return nil, err
			}
			spec := sandbox.Spec{Args: r.seinedArgs(), Env: r.programEnv(), Dir: cwd}
			return r.exec(spec, log, nil, r.world.launch)
		},
		Report: func(rep process.Report) {
			r.mu.Lock()
			r.control.Report = rep
			last, served := r.control.last, r.control.ready
			r.mu.Unlock()
			if rep.Phase == process.Waiting {
				text := ended("seined", rep, last)
				if served {
					text += " (traffic goes on with what the proxies know)"
				}
				r.print.event("%s", text)
			}
			if rep.Phase == process.Running && rep.Restarts > 0 {
				r.print.event("seined was started again")
			}
			r.notify()
		},
		Clock:   r.clock,
		Backoff: process.DefaultBackoff(),
		Grace:   grace,
	}
}

func (r *runner) seinedArgs() []string {
	args := []string{r.Seined}
	for _, p := range r.Paths {
		args = append(args, "--config", p)
	}
	at := func(port int) string {
		return netip.AddrPortFrom(r.world.control, uint16(port)).String()
	}
	args = append(args, "--config", r.entries.dir, "--state", r.StateDir, "--listen", at(portXDS), "--http", at(portAPI),
		"--socket", rundir.Socket(r.RunDir), "--join-secret", r.joinSecret())
	if r.CertTTL > 0 {
		args = append(args, "--cert-ttl", r.CertTTL.String())
	}
	if r.MeshConfig != "" {
		args = append(args, "--mesh-config", r.MeshConfig)
	}
	return args
}

// controlPatience is how long seined may take to begin, and how often it may
// fail before that is taken for an answer.
const (
	controlPatience = 30 * time.Second
	controlTries    = 3
)

// awaitControl waits until seined answers.
func (r *runner) awaitControl(ctx context.Context) error {
	r.print.event("starting seined")
	deadline := r.clock.After(controlPatience)
	for {
		if r.api.healthy(ctx) {
			r.mu.Lock()
			r.control.ready = true // and stays so, whatever becomes of it
			r.mu.Unlock()
			r.print.event("seined is ready at %s", rundir.Socket(r.RunDir))
			return nil
		}
		r.mu.Lock()
		state := r.control
		r.mu.Unlock()
		if state.Restarts >= controlTries {
			return fmt.Errorf("%w: %v; its last words: %s", errNoControl, state.Err, state.last)
		}
		select {
		case <-r.clock.After(lookSoon):
		case <-deadline:
			return fmt.Errorf("%w within %s; its last words: %s", errNoControl, controlPatience, state.last)
		case <-r.kill:
			return errKilled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// startGateway starts the proxy behind the published ports, if there are any.
func (r *runner) startGateway() error {
	if len(r.Publish) == 0 {
		return nil
	}
	m := &member{
		r: r, wake: make(chan struct{}, 1), done: make(chan struct{}),
		entry: entry{
			Namespace: "seine-system", Instance: "gateway-1", App: "gateway", ServiceAccount: "gateway",
			Labels: map[string]string{"app": "gateway"}, Sidecar: true, Gateway: true,
		},
	}
	m.key = m.entry.Namespace + "/" + m.entry.Instance
	m.dir = filepath.Join(r.RunDir, "workloads", m.entry.Namespace+"."+m.entry.Instance)
	taken := map[netip.Addr]bool{}
	for _, o := range r.list() {
		if o.key == m.key {
			return fmt.Errorf("a Workload is called %s: seine up needs that name for the published ports, choose another", m.key)
		}
		taken[o.entry.Addr] = true
	}
	r.allot([]*member{m}, taken)
	if err := r.entries.write(&m.entry); err != nil {
		return err
	}
	r.start([]*member{m})
	return nil
}
