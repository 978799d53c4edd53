//go:build linux

package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/metrics"
	"github.com/seinemesh/seine/telemetry/span"
)

// flushTime is how long a proxy that ends waits for its collectors.
const flushTime = 2 * time.Second

// tracing is the process's part of tracing: whether there is any, and who
// takes the spans out of the loops.
type tracing struct {
	p       *Proxy
	inner   door // of the collectors' connections
	limited *metrics.Counter
	now     atomic.Pointer[sides] // nil: nothing is traced

	mu       sync.Mutex // of what follows; never on a request's path
	self     *decide.Self
	reporter *span.Reporter // made with the first collector
	closed   bool
}

// sides are how requests are traced that the workload makes, and those that it
// serves.
type sides struct {
	client, server *decide.Tracing
	reporter       *span.Reporter
}

// published takes what a new table says of tracing.
func (t *tracing) published(table *decide.Table) {
	if table == nil || table.Self == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	self := table.Self
	if t.closed || self == t.self {
		return
	}
	before := t.self
	t.self = self
	if before != nil && proto.Equal(before.Proto.TraceClient, self.Proto.TraceClient) &&
		proto.Equal(before.Proto.TraceServer, self.Proto.TraceServer) && proto.Equal(before.Proto.Workload, self.Proto.Workload) {
		return // what is there holds the same
	}
	if self.Client == nil && self.Server == nil {
		t.now.Store(nil)
		if t.reporter != nil {
			t.reporter.Set(nil, nil, nil)
		}
		return
	}
	if t.reporter == nil {
		t.limited = t.p.registry.Counter(telemetry.TraceSpans, span.CountHelp, "outcome", "limited")
		t.reporter = span.NewReporter(span.Options{Dial: t.dial, Env: os.LookupEnv, Registry: t.p.registry, Log: t.p.log})
	}
	t.reporter.Set(self.Proto.Workload, self.Proto.TraceClient, self.Proto.TraceServer)
	t.now.Store(&sides{self.Client, self.Server, t.reporter})
}

// close sends what there is.
func (t *tracing) close() {
	t.mu.Lock()
	r := t.reporter
	t.closed = true
	t.mu.Unlock()
	if r != nil {
		r.Close(flushTime)
	}
}

var errEnding = errors.New("the proxy is at its end")

// dial connects to a collector the way a request of the workload would go: by
// the mesh's own routes, endpoints and identities if it is a service of the mesh,
// by its name or address where it is outside. Its address is not looked at here:
// each request says it.
func (t *tracing) dial(context.Context, string) (net.Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "collector")
	defer func() { _ = ours.Close() }() // FileConn has a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = syscall.Close(fds[1])
		return nil, err
	}
	w := t.p.workers[0]
	if !w.loop.Post(func() { t.p.place(w, fds[1], &t.inner) }) {
		_ = syscall.Close(fds[1])
		_ = conn.Close()
		return nil, errEnding
	}
	return conn, nil
}

// newTracing is one without a collector.
func newTracing(p *Proxy) *tracing {
	limits := http1.Limits{Head: p.o.MaxHead, Fields: maxFields, Proxy: true}
	return &tracing{p: p, inner: door{kind: doorExplicit, inner: true, limits: limits, fd: -1}}
}

// retrace takes what holds for the loop's requests from now on.
func (w *worker) retrace() {
	now := w.p.tracing.now.Load()
	switch {
	case now == nil:
		w.tracer = nil
	case w.tracer == nil || w.tracer.sides != now:
		t := &tracer{sides: now}
		if old := w.spans; old != nil {
			t.ring = old
		} else {
			t.ring = now.reporter.Ring()
			w.spans = t.ring
		}
		w.tracer = t
	}
}
