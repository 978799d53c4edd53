package metrics

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/seinemesh/seine/telemetry"
)

func count(t *testing.T, r *Registry, name string) (sets int, total float64) {
	t.Helper()
	f := scrape(t, r)[name]
	for _, m := range f.GetMetric() {
		total += m.Counter.GetValue()
	}
	return len(f.GetMetric()), total
}

func TestSweep(t *testing.T) {
	r := New(Options{})
	a, b := r.Shard(), r.Shard()
	l, idle := labels(), labels()
	idle.Service = "idle"
	a.Requests(l).Observe(200, telemetry.FlagNone, 1, 0, 0)
	busy := b.Requests(l)
	quiet := a.Requests(idle)
	quiet.Observe(500, telemetry.FlagNone, 1, 0, 0)
	for i := range 3 {
		busy.Observe(200, telemetry.FlagNone, 1, 0, 0) // one loop keeps the set for all
		if gone := r.Sweep(); gone != 0 && i == 0 {
			t.Errorf("sweep %d: %d went", i, gone)
		}
	}
	if sets, total := count(t, r, telemetry.RequestsTotal); sets != 1 || total != 4 {
		t.Errorf("%d series, %v requests after sweeps", sets, total)
	}
	// A handle that somebody kept begins anew.
	quiet.Observe(200, telemetry.FlagNone, 1, 0, 0)
	if sets, total := count(t, r, telemetry.RequestsTotal); sets != 2 || total != 5 {
		t.Errorf("%d series, %v requests after the idle one came back", sets, total)
	}
	// And so does one that is asked for by its labels.
	r.Sweep()
	r.Sweep()
	if sets, _ := count(t, r, telemetry.RequestsTotal); sets != 0 {
		t.Errorf("%d series are left", sets)
	}
	a.Requests(idle).Observe(200, telemetry.FlagNone, 1, 0, 0)
	if sets, total := count(t, r, telemetry.RequestsTotal); sets != 1 || total != 1 {
		t.Errorf("%d series, %v requests", sets, total)
	}
}

func TestSweepTCP(t *testing.T) {
	r := New(Options{})
	c := r.Shard().TCP(labels())
	c.Opened()
	for range 3 {
		if r.Sweep() != 0 {
			t.Fatal("the series of an open connection went")
		}
	}
	c.Closed(telemetry.FlagNone)
	r.Sweep()
	if r.Sweep() != 1 {
		t.Fatal("the series of a closed connection stayed")
	}
	c.Opened()
	c.Sent(5)
	if _, total := count(t, r, telemetry.TCPSentBytes); total != 5 {
		t.Errorf("%v bytes", total)
	}
	if _, total := count(t, r, telemetry.TCPConnectionsOpened); total != 1 {
		t.Errorf("%v opened", total)
	}
}

// TestChurn: label sets that come and go need no more memory than those that are there.
func TestChurn(t *testing.T) {
	r := New(Options{MaxSeries: 30})
	s := r.Shard()
	for i := range 200 {
		l := labels()
		l.Service = fmt.Sprintf("svc-%d", i)
		s.Requests(l).Observe(200, telemetry.FlagNone, 1, 0, 0)
		s.TCP(l).Sent(1)
		if i%4 == 3 {
			r.Sweep()
		}
	}
	if len(s.requests) > 20 || len(s.tcp) > 20 || len(r.byKey) > 20 || r.foldedLabels.Value() > 0 {
		t.Errorf("%d and %d handles, %d sets, %d folded", len(s.requests), len(s.tcp), len(r.byKey), r.foldedLabels.Value())
	}
}

// TestSweepWhileCounting: nothing that is counted between two scrapes is lost, and
// no race is there to be found.
func TestSweepWhileCounting(t *testing.T) {
	r := New(Options{})
	var loops sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		s := r.Shard()
		loops.Go(func() {
			h, c := s.Requests(labels()), s.TCP(labels())
			for {
				select {
				case <-stop:
					return
				default:
				}
				h.Observe(200, telemetry.FlagNone, 5, 0, 0)
				c.Opened()
				c.Closed(telemetry.FlagNone)
				s.Requests(labels())
			}
		})
	}
	for range 200 {
		r.Sweep()
		var b bytes.Buffer
		if _, err := r.WriteProtobuf(&b); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	loops.Wait()
	h := r.Shard().Requests(labels())
	h.Observe(200, telemetry.FlagNone, 5, 0, 0)
	if sets, total := count(t, r, telemetry.RequestsTotal); sets != 1 || total == 0 {
		t.Errorf("%d series, %v requests", sets, total)
	}
}
