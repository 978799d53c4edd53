// Package accesslog writes one line for each request or connection without
// ever making an event loop wait.
//
// What enters: entries, each event loop through a Ring of its own. What leaves:
// lines in Istio's JSON or text format, written by one goroutine. Append copies
// into the ring's memory, allocates nothing, never blocks and never writes: a
// full ring drops the entry and counts it.
package accesslog

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/ring"
)

// ErrStuck is Close's answer if the output takes no more bytes.
var ErrStuck = errors.New("access log: the output blocks; the last lines are lost")

// Format is how a line is written.
type Format uint8

// The two formats of Istio's default access log.
const (
	JSON Format = iota
	Text
)

// Entry is what a line says. Byte slices and strings are copied by Append and
// may be reused by the caller at once; empty is written as "-" or null.
type Entry struct {
	Start    time.Time
	Duration time.Duration // until the last byte was sent downstream
	// UpstreamServiceTime is what the upstream took; negative if it was not asked.
	UpstreamServiceTime time.Duration

	Method, Path, Authority []byte
	// Protocol is "HTTP/1.1", "HTTP/1.0", …; empty for TCP.
	Protocol                           string
	UserAgent, RequestID, ForwardedFor []byte
	// TraceID is in hexadecimal; empty where nothing is traced.
	TraceID []byte

	Code int // 0: no answer was sent, or TCP
	Flag telemetry.Flag
	// Details says where the answer comes from: "via_upstream", "route_not_found", ….
	Details string
	// Termination says why the proxy ended the connection.
	Termination string
	// UpstreamFailure is the reason of a failed upstream transport (TLS, connect).
	UpstreamFailure string

	BytesReceived, BytesSent int64

	UpstreamHost, UpstreamLocal       netip.AddrPort
	DownstreamLocal, DownstreamRemote netip.AddrPort
	UpstreamCluster                   string // outbound|8080|v1|billing-service.default.svc.cluster.local
	ServerName                        string // SNI
	RouteName                         string

	Attempts int // how often the request was sent upstream; written if it was more than once
}

// Options of New. Only Out is required.
type Options struct {
	Out    io.Writer
	Format Format
	// RingBytes is the memory of each ring, rounded up to a power of two of
	// at least 32 KiB; 128 KiB if zero.
	RingBytes int
	// Batch is how long the writer lets entries gather before it writes
	// (a ring that is half full does not wait); 10 ms if zero.
	Batch time.Duration
	// CloseWait bounds how long Close waits for an output that blocks; 2 s if zero.
	CloseWait time.Duration
}

// Writer owns the output and its goroutine.
type Writer struct {
	out       io.Writer
	format    Format
	closeWait time.Duration
	queue     *ring.Queue

	written  atomic.Uint64
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{}

	mu  sync.Mutex // guards err
	err error
}

// New starts a writer.
func New(o Options) *Writer {
	w := &Writer{
		out: o.Out, format: o.Format, closeWait: o.CloseWait,
		queue: ring.New(ring.Options{Bytes: o.RingBytes, Batch: o.Batch}),
		stop:  make(chan struct{}), done: make(chan struct{}),
	}
	if w.closeWait == 0 {
		w.closeWait = 2 * time.Second
	}
	go w.run()
	return w
}

// Open opens path for appending (0600 if it is made); "-" is standard output,
// which closing leaves open.
func Open(path string) (io.WriteCloser, error) {
	if path == "-" {
		return stdout{}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("access log: %w; name a file that this user may write, or - for standard output", err)
	}
	return f, nil
}

type stdout struct{}

func (stdout) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdout) Close() error                { return nil }

// Ring returns a new ring, to be used by one goroutine at a time (one loop).
// A nil Writer returns a nil Ring, whose Append does nothing.
func (w *Writer) Ring() *Ring {
	if w == nil {
		return nil
	}
	return &Ring{w.queue.Ring()}
}

// Dropped is how many entries found their ring full since the start.
func (w *Writer) Dropped() uint64 {
	if w == nil {
		return 0
	}
	return w.queue.Dropped()
}

// Written is how many lines were written.
func (w *Writer) Written() uint64 {
	if w == nil {
		return 0
	}
	return w.written.Load()
}

// Err returns the last error of the output, nil if the last write succeeded.
func (w *Writer) Err() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close writes what is in the rings and ends the goroutine. The output is not
// closed. Entries appended after Close are lost.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.stopOnce.Do(func() { close(w.stop) })
	timer := time.NewTimer(w.closeWait)
	defer timer.Stop()
	select {
	case <-w.done:
		return w.Err()
	case <-timer.C:
		return ErrStuck
	}
}

// run is the writer's goroutine.
func (w *Writer) run() {
	defer close(w.done)
	var lines []byte
	w.queue.Run(w.stop, func() { lines = w.drain(lines) })
}

// writeAt is the size at which lines go out.
const writeAt = 64 << 10

// drain writes what the rings hold now, and returns the buffer for reuse.
func (w *Writer) drain(lines []byte) []byte {
	lines = lines[:0]
	var n uint64
	var rec record
	w.queue.Each(func(b []byte) {
		rec.decode(b)
		lines = appendLine(lines, w.format, &rec)
		n++
		if len(lines) >= writeAt {
			w.write(lines, n)
			lines, n = lines[:0], 0
		}
	})
	if n > 0 {
		w.write(lines, n)
	}
	return lines
}

func (w *Writer) write(lines []byte, n uint64) {
	_, err := w.out.Write(lines)
	if err == nil {
		w.written.Add(n)
	} else {
		err = fmt.Errorf("access log: %w", err)
	}
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
}
