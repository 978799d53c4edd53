package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/local/process"
	"github.com/seinemesh/seine/local/sandbox"
)

// member is one instance: its place, its sidecar, its program. It is described
// by describe, run by run, once.
type member struct {
	r      *runner
	key    string // NAMESPACE/INSTANCE
	entry  entry  // but for Healthy, which is under mu, it does not change
	local  *config.Local
	digest string // of the description: another one needs another member
	number int
	apps   []uint16 // fallback: where the program listens, in the order of entry.Ports
	dir    string
	site   *site
	cancel context.CancelFunc
	wake   chan struct{} // something began: look soon
	done   chan struct{}

	mu        sync.Mutex
	leaving   bool
	sidecar   status
	program   status
	listening bool
	failure   error // why it never began
}

// status is what is known of a program.
type status struct {
	process.Report
	ready bool
	last  string // line of its output
}

const annotationInject = "sidecar.istio.io/inject"

// describe makes a member of a local Workload; it has no address yet.
func (r *runner) describe(l *config.Local, instance string) *member {
	m := &member{
		r: r, key: l.Namespace + "/" + instance, local: l, wake: make(chan struct{}, 1), done: make(chan struct{}),
		entry: entry{
			Namespace: l.Namespace, Instance: instance, App: l.Name, ServiceAccount: l.ServiceAccount,
			Labels: l.Labels, Ports: l.Ports,
			Annotations: l.Annotations,
			Sidecar:     l.Annotations[annotationInject] != "false" && l.Labels[annotationInject] != "false",
		},
	}
	m.dir = filepath.Join(r.RunDir, "workloads", l.Namespace+"."+instance)
	d := *l
	d.Line, d.Replicas = 0, 0 // neither changes what an instance is
	data, err := json.Marshal(d)
	if err != nil { // strings and numbers only
		panic(err)
	}
	sum := sha256.Sum256(data)
	m.digest = hex.EncodeToString(sum[:])
	return m
}

// name is how the output calls the member.
func (m *member) name() string {
	if m.entry.Namespace == "default" || m.local == nil {
		return m.entry.Instance
	}
	return m.key
}

// run runs the member until ctx ends and everything of it is gone.
func (m *member) run(ctx context.Context) {
	defer close(m.done)
	if err := m.prepare(); err != nil {
		m.mu.Lock()
		m.failure = err
		m.mu.Unlock()
		m.r.print.event("%s cannot run: %v", m.name(), err)
		m.r.notify()
		<-ctx.Done()
		return
	}
	defer m.clear()

	// The sidecar outlives the program, which may still call others as it ends.
	sidecarCtx, stopSidecar := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopSidecar()
	if m.entry.Sidecar {
		wg.Go(func() { process.Keep(sidecarCtx, m.r.kill, m.proxy()) })
	}
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	wg.Go(func() { m.watch(watchCtx) })
	wg.Go(func() { m.renew(watchCtx) })
	if m.local == nil {
		<-ctx.Done()
		return
	}
	process.Keep(ctx, m.r.kill, m.application())
}

func (m *member) prepare() error {
	if !m.entry.Addr.IsValid() {
		return fmt.Errorf("no address of %s is left for it", m.r.world.prefix)
	}
	if err := os.Mkdir(m.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := m.writeFiles(); err != nil {
		return err
	}
	var err error
	if m.site, err = m.r.world.site(m.number, m.entry.Addr, m.entry.Sidecar && m.local != nil); err != nil {
		return err
	}
	if !m.r.world.isolated {
		for _, p := range m.entry.Ports {
			if !m.entry.Sidecar {
				break // the program listens there itself, if it can
			}
			if err := canListen(m.entry.Addr, uint16(p.Number)); err != nil {
				return err
			}
		}
		if m.apps, err = freePorts(len(m.entry.Ports)); err != nil {
			return err
		}
	}
	return nil
}

func (m *member) clear() {
	if err := m.r.entries.remove(&m.entry); err != nil {
		m.r.print.event("%s: %v", m.name(), err)
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.r.print.event("%s: %v", m.name(), err)
	}
	m.site.close()
}

// proxy says how to keep the member's seine-proxy running.
func (m *member) proxy() process.Options {
	log := m.r.sink(m.entry.Namespace+"."+m.entry.Instance+".proxy", "", 0, func(line string) {
		m.mu.Lock()
		m.sidecar.last = line
		m.mu.Unlock()
	})
	return process.Options{
		Prepare: func(context.Context) error { return m.credentials() },
		Start: func() (process.Program, error) {
			spec := sandbox.Spec{Args: m.proxyArgs(), Env: m.r.programEnv()}
			if m.r.world.isolated {
				spec.Caps = []uintptr{unix.CAP_NET_ADMIN} // for SO_MARK
				m.enclose(&spec)
				spec.Keep = []string{m.dir, filepath.Join(m.r.RunDir, dialSocket)}
			}
			var files []*os.File
			if m.local == nil {
				files = m.r.listen
			}
			return m.r.exec(spec, log, files, m.site.launch)
		},
		Report:  func(rep process.Report) { m.report(&m.sidecar, rep, m.name()+"'s seine-proxy") },
		Clock:   m.r.clock,
		Backoff: process.DefaultBackoff(),
		Grace:   2 * grace, // its own drain is shorter
	}
}

// application says how to keep the member's program running.
func (m *member) application() process.Options {
	log := m.r.sink(m.entry.Namespace+"."+m.entry.Instance, m.name(), m.number, func(line string) {
		m.mu.Lock()
		m.program.last = line
		m.mu.Unlock()
	})
	dir, err := filepath.Abs(m.local.Dir())
	return process.Options{
		Prepare: func(ctx context.Context) error {
			if err != nil || !m.entry.Sidecar {
				return err
			}
			return m.awaitSidecar(ctx)
		},
		Start: func() (process.Program, error) {
			spec := sandbox.Spec{Args: m.local.Command, Env: m.environment(), Dir: dir}
			spec.UID, spec.GID = m.r.UID, m.r.GID
			if m.r.world.isolated {
				spec.NewUser = m.r.Own
				m.enclose(&spec)
			}
			return m.r.exec(spec, log, nil, m.site.launch)
		},
		Report:  func(rep process.Report) { m.report(&m.program, rep, m.name()) },
		Clock:   m.r.clock,
		Backoff: process.DefaultBackoff(),
		Grace:   grace,
	}
}

// enclose gives a program mounts and processes of its own.
func (m *member) enclose(spec *sandbox.Spec) {
	spec.NewMount, spec.NewPID, spec.Hostname = true, true, m.entry.Instance
	spec.Hide = []string{m.r.RunDir, m.r.StateDir}
	spec.Files = m.files()
}

// report takes a change in the life of one of the member's two programs.
func (m *member) report(s *status, rep process.Report, who string) {
	m.mu.Lock()
	s.Report = rep
	if rep.Phase != process.Running {
		s.ready = false
		if s == &m.program {
			m.listening = false
		}
	} else if s == &m.program && len(m.entry.Ports) == 0 {
		s.ready = true
	}
	last := s.last
	m.mu.Unlock()
	m.publish()
	if rep.Phase == process.Running {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	if rep.Phase == process.Waiting {
		m.r.print.event("%s", ended(who, rep, last))
	}
	m.r.notify()
}

// ended is the sentence about a program that will be started again.
func ended(who string, rep process.Report, last string) string {
	s := fmt.Sprintf("%s ended: %v; starting again in %s", who, rep.Err, rep.Delay)
	if rep.Restarts > 1 {
		s += fmt.Sprintf(" (%d times so far)", rep.Restarts)
	}
	var exit *exec.ExitError // words explain an exit; a signal came from elsewhere
	if last != "" && errors.As(rep.Err, &exit) && exit.Exited() {
		s += "; its last words: " + last
	}
	return s
}

// publish tells the control plane whether the member may be called.
func (m *member) publish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	healthy := !m.leaving && (m.local == nil || m.program.ready) && (!m.entry.Sidecar || m.sidecar.Phase == process.Running && m.sidecar.ready)
	if healthy == m.entry.Healthy {
		return
	}
	m.entry.Healthy = healthy
	if err := m.r.entries.write(&m.entry); err != nil {
		m.r.print.event("%s: %v", m.name(), err)
	}
	if healthy {
		m.r.print.event("%s is ready at %s", m.name(), m.entry.Addr)
	}
}

// leave tells the control plane that nobody shall call the member any more.
func (m *member) leave() {
	m.mu.Lock()
	m.leaving = true
	m.mu.Unlock()
	m.publish()
}

// notReady says why the member is not; "" if it is.
func (m *member) notReady() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.failure != nil:
		return "cannot run: " + m.failure.Error()
	case m.entry.Healthy:
		return ""
	case m.entry.Sidecar && m.sidecar.Phase == process.Waiting:
		return fmt.Sprintf("has no seine-proxy: %v", m.sidecar.Err)
	case m.entry.Sidecar && !m.sidecar.ready:
		return "waits for its seine-proxy"
	case m.program.Phase == process.Waiting:
		return fmt.Sprintf("ended: %v (%d times)", m.program.Err, m.program.Restarts)
	case m.program.Phase == process.Running:
		return "does not listen on its ports yet"
	}
	return m.program.Phase.String()
}

// Intervals of looking, where nobody tells.
const (
	lookSoon = 25 * time.Millisecond
	lookLate = time.Second
)

// awaitSidecar waits until the sidecar says that it is ready, and remembers it.
func (m *member) awaitSidecar(ctx context.Context) error {
	url := "http://" + m.entry.Addr.String() + ":15020/healthz/ready"
	for {
		m.mu.Lock()
		running, ready := m.sidecar.Phase == process.Running, m.sidecar.ready
		m.mu.Unlock()
		if ready {
			return nil
		}
		if running && m.r.api.ok(ctx, url) {
			m.mu.Lock()
			m.sidecar.ready = m.sidecar.Phase == process.Running
			m.mu.Unlock()
			m.publish()
			m.r.notify()
			continue
		}
		select {
		case <-m.r.clock.After(lookSoon):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch looks whether the program listens on the ports that it declares, and
// whether a sidecar that was started again is ready.
func (m *member) watch(ctx context.Context) {
	for {
		if m.entry.Sidecar {
			if m.awaitSidecar(ctx) != nil {
				return
			}
		}
		wait := lookLate
		if len(m.entry.Ports) > 0 && !m.look() {
			wait = lookSoon
		}
		select {
		case <-m.r.clock.After(wait):
		case <-m.wake:
		case <-ctx.Done():
			return
		}
	}
}

// look reports whether the program listens, and tells whom it concerns.
func (m *member) look() bool {
	ports, err := m.site.listening()
	if err != nil {
		m.r.log.Warn("look for listening ports", "instance", m.key, "err", err)
		return false
	}
	all := true
	for i, p := range m.entry.Ports {
		port := uint16(p.Number)
		if m.apps != nil {
			port = m.apps[i]
		}
		all = all && ports[port]
	}
	m.mu.Lock()
	before := m.program.ready
	m.program.ready = all && m.program.Phase == process.Running
	ready := m.program.ready
	m.mu.Unlock()
	if ready != before {
		m.publish()
		m.r.notify()
	}
	return ready
}

// tokenLife is how long a join token is good for.
const tokenLife = 24 * time.Hour

// renew keeps the sidecar's token fresh: each certificate needs one.
func (m *member) renew(ctx context.Context) {
	for m.entry.Sidecar {
		select {
		case <-m.r.clock.After(tokenLife / 3):
		case <-ctx.Done():
			return
		}
		if err := m.credentials(); err != nil {
			m.r.print.event("%s: %v", m.name(), err)
		}
	}
}

// credentials writes what the sidecar needs to be itself: a token of its own
// and the roots to trust.
func (m *member) credentials() error {
	token, err := ca.Mint(m.r.secret, ca.Claims{
		Namespace: m.entry.Namespace, ServiceAccount: m.entry.ServiceAccount, Workload: m.entry.Instance,
		Expires: m.r.clock.Now().Add(tokenLife),
	})
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	roots, err := os.ReadFile(filepath.Join(m.r.StateDir, rootFile))
	if err != nil {
		return fmt.Errorf("read the roots that seined wrote: %w", err)
	}
	if err := replace(filepath.Join(m.dir, "ca.pem"), roots); err != nil {
		return fmt.Errorf("write the roots: %w", err)
	}
	if err := replace(filepath.Join(m.dir, "token"), []byte(token)); err != nil {
		return fmt.Errorf("write the join token: %w", err)
	}
	return nil
}

// replace writes a private file, whole.
func replace(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
