package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/dns"
	"github.com/seinemesh/seine/local/process"
)

// runner runs a mesh in a world. One goroutine (apply's) adds and removes
// members; each member is run by its own.
type runner struct {
	job
	world   *world
	print   *printer
	log     *slog.Logger
	clock   process.Clock
	listen  []*os.File // published ports, in the order of job.Publish
	kill    <-chan struct{}
	entries entries
	secret  []byte
	names   names
	api     *api

	config  *config.Result      // what runs; apply's
	latest  chan *config.Result // what should run; the newest only
	members map[string]*member  // apply's; read under mu
	numbers int                 // how many sites were made
	foreign int                 // instances that the user's files describe, and that run elsewhere

	mu      sync.Mutex
	trust   string // trust domain
	domain  string // cluster domain
	control status // of seined
	moved   chan struct{}
}

// run runs the mesh until ctx ends, or for so long as the job says; then it
// stops everything, in order. Closing kill ends the patience with programs.
func (r *runner) run(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	background, end := context.WithCancel(context.Background())
	defer end()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer end()

	source := files.New(r.source())
	first, err := source.Load(ctx)
	if err != nil {
		return err
	}
	r.adopt(first)
	r.config = first
	for _, w := range first.Snapshot.Workloads { // none of ours is described yet
		if !w.Unhealthy {
			r.foreign++
		}
	}
	if r.world.isolated {
		if err := r.resolver(background, &helpers); err != nil {
			return err
		}
	}
	wanted := r.wanted(first)
	for _, m := range wanted {
		if err := r.entries.write(&m.entry); err != nil {
			return err
		}
	}

	stopped := make(chan struct{})
	controlCtx, stopControl := context.WithCancel(background)
	go func() {
		defer close(stopped)
		process.Keep(controlCtx, r.kill, r.seined())
	}()
	defer func() { stopControl(); <-stopped }()
	if err := r.awaitControl(ctx); err != nil {
		return err
	}
	defer r.stopAll()
	watchCtx, stopWatching := context.WithCancel(background)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stopWatching()
	watchers.Go(func() { r.show(watchCtx) })
	if err := r.begin(ctx, wanted); err != nil {
		return err
	}
	watchers.Go(func() { r.follow(watchCtx, source) })
	err = r.wait(ctx)
	stopWatching()
	watchers.Wait()
	r.print.leave()
	r.print.event("stopping")
	return err
}

// begin starts the members that serve, and when they are ready those that only
// call, so that nobody's first call meets a service that is not there yet. One
// that does not become ready holds the others up for a bounded time.
func (r *runner) begin(ctx context.Context, members []*member) error {
	var callers []*member
	servers := slices.DeleteFunc(members, func(m *member) bool {
		caller := len(m.entry.Ports) == 0
		if caller {
			callers = append(callers, m)
		}
		return caller
	})
	r.start(servers)
	patience := r.clock.After(serversFirst)
	for len(r.waiting()) > 0 {
		select {
		case <-r.moved:
			continue
		case <-patience:
		case <-ctx.Done():
			return nil
		}
		break
	}
	r.heard(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err := r.startGateway(); err != nil {
		return err
	}
	r.start(callers)
	return nil
}

// heard waits, for a bounded time, until the control plane knows of every
// instance that is ready: it reads what it is told after a moment of quiet.
func (r *runner) heard(ctx context.Context) {
	patience := r.clock.After(serversFirst)
	for {
		want := r.foreign
		for _, m := range r.list() {
			if m.notReady() == "" {
				want++
			}
		}
		if n, err := r.api.callable(ctx); err == nil && n >= want {
			return
		}
		select {
		case <-r.clock.After(lookSoon):
		case <-patience:
			return
		case <-ctx.Done():
			return
		}
	}
}

const (
	serversFirst = 10 * time.Second
	settling     = 250 * time.Millisecond
)

// source is what this process reads: for its resolver, and for what to run. The
// instances' own entries are among it.
func (r *runner) source() files.Options {
	return files.Options{
		Paths: append(slices.Clone(r.Paths), r.entries.dir), MeshConfig: r.MeshConfig, Log: r.log,
	}
}

func (r *runner) prepare() error {
	r.entries = entries{dir: filepath.Join(r.RunDir, "mesh"), temp: filepath.Join(r.RunDir, "new")}
	r.members = map[string]*member{}
	r.latest = make(chan *config.Result, 1)
	r.moved = make(chan struct{}, 1)
	for _, dir := range []string{r.entries.dir, r.entries.temp, filepath.Join(r.RunDir, logsDir), filepath.Join(r.RunDir, "workloads")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("run folder: %w", err)
		}
	}
	var err error
	if r.secret, err = ca.CreateSecret(r.joinSecret()); err != nil {
		return fmt.Errorf("make the join secret: %w", err)
	}
	r.api = newAPI(r.RunDir)
	return nil
}

func (r *runner) joinSecret() string { return filepath.Join(r.RunDir, "join-secret") }

// adopt takes a configuration for what does not need apply.
func (r *runner) adopt(res *config.Result) {
	r.mu.Lock()
	r.trust, r.domain = res.Snapshot.Settings.TrustDomain, res.Snapshot.Settings.ClusterDomain
	r.mu.Unlock()
	r.names.snapshot.Store(res.Snapshot)
}

// domains are the trust domain and the cluster domain.
func (r *runner) domains() (trust, cluster string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trust, r.domain
}

// resolver serves DNS at the hub's address.
func (r *runner) resolver(ctx context.Context, wg *sync.WaitGroup) error {
	at := netip.AddrPortFrom(r.world.control, 53).String()
	pc, err := net.ListenPacket("udp4", at)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	l, err := net.Listen("tcp4", at)
	if err != nil {
		pc.Close()
		return fmt.Errorf("resolver: %w", err)
	}
	server := dns.New(dns.Options{Lookup: r.names.lookup, Forward: dns.DialUnix(filepath.Join(r.RunDir, dnsSocket)), Log: r.log})
	wg.Go(func() {
		if err := server.Serve(ctx, pc, l); ctx.Err() == nil {
			r.print.event("the resolver ended: %v; names no longer resolve", err)
		}
	})
	return nil
}

// start runs members.
func (r *runner) start(members []*member) {
	for _, m := range members {
		r.mu.Lock()
		r.members[m.key] = m
		r.numbers++
		m.number = r.numbers
		r.mu.Unlock()
		var ctx context.Context
		ctx, m.cancel = context.WithCancel(context.Background())
		go m.run(ctx)
	}
}

// stopAll ends every member: first the doors into the mesh, then the rest.
func (r *runner) stopAll() {
	members := r.list()
	for _, doors := range []bool{true, false} {
		for _, m := range members {
			if (m.local == nil) == doors {
				m.cancel()
			}
		}
		for _, m := range members {
			if (m.local == nil) == doors {
				<-m.done
			}
		}
	}
}

// list is the members by name.
func (r *runner) list() []*member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*member
	for _, m := range r.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *member) int { return strings.Compare(a.key, b.key) })
	return out
}

// notify wakes wait; it never blocks.
func (r *runner) notify() {
	select {
	case r.moved <- struct{}{}:
	default:
	}
}

// wait returns when the mesh shall stop, and says whether it should have been
// ready by then and was not.
func (r *runner) wait(ctx context.Context) error {
	var deadline, over <-chan time.Time
	if r.For >= 0 && r.ReadyTimeout > 0 {
		deadline = r.clock.After(r.ReadyTimeout)
	}
	ready := false
	for {
		waiting := r.waiting()
		if !ready && len(waiting) == 0 {
			if r.heard(ctx); ctx.Err() != nil {
				return nil
			}
			ready, deadline = true, nil
			r.announce()
			if r.For >= 0 {
				over = r.clock.After(r.For)
			}
		}
		select {
		case <-r.moved:
		case <-over:
			if len(waiting) > 0 {
				return fmt.Errorf("not ready at the end: %s", strings.Join(waiting, "; "))
			}
			return nil
		case <-deadline:
			return fmt.Errorf("not ready after %s: %s", r.ReadyTimeout, strings.Join(waiting, "; "))
		case <-r.kill:
			return errKilled
		case <-ctx.Done():
			return nil
		}
	}
}

// waiting says what is not ready, each with why.
func (r *runner) waiting() []string {
	var out []string
	for _, m := range r.list() {
		if why := m.notReady(); why != "" {
			out = append(out, m.name()+" "+why)
		}
	}
	return out
}

func (r *runner) announce() {
	r.print.event("ready: %d instances", len(r.list()))
	for _, p := range r.Publish {
		r.print.event("  http://127.0.0.1:%d → %s:%d", p.Port, p.Host, p.To)
	}
}

// errNoControl is a control plane that did not begin.
var errNoControl = errors.New("seined did not start")
