package stat

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// others are n series of calls that no other scrape has.
func others(b *bytes.Buffer, from, n int) []byte {
	b.Reset()
	for i := range n {
		fmt.Fprintf(b, "istio_requests_total{reporter=\"source\",source_workload=\"job-%d\"} 1\n", from+i)
	}
	return b.Bytes()
}

// TestChurnOfOthers: what one proxy reports, however much it is, changes nothing of
// what another one counts.
func TestChurnOfOthers(t *testing.T) {
	w := NewWindow(10 * time.Second)
	steady := func(now, n int) {
		t.Helper()
		if err := w.Add("steady", at(now), fmt.Appendf(nil, "istio_requests_total{reporter=\"source\",destination_service=\"a\"} %d\n", n)); err != nil {
			t.Fatal(err)
		}
	}
	steady(0, 1000)
	var b bytes.Buffer
	for i := range 3 {
		name := fmt.Sprintf("other-%d", i)
		if err := w.Add(name, at(0), others(&b, i*1000, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := w.Add(name, at(1), append(others(&b, i*1000+500, 1000), "istio_requests_total{\n"...)); err == nil {
			t.Fatal("a broken scrape was taken")
		}
		if n := len(w.interned); n != 1001 {
			t.Errorf("%d series are remembered, there are 1001", n)
		}
		w.Remove(name)
	}
	if err := w.Add("hostile", at(0), others(&b, 0, maxSeries+1)); err == nil || len(w.interned) != 1 {
		t.Errorf("%v, %d series are remembered", err, len(w.interned))
	}
	steady(1, 1001)
	for _, f := range w.Flows(at(1), time.Time{}) {
		if f.Service == "a" && f.Requests != 1 {
			t.Errorf("%g requests were counted, there was 1", f.Requests)
		}
	}
	if n := len(w.instances["steady"].series); n != 1 {
		t.Errorf("a proxy of one series has %d", n)
	}
	w.Remove("steady")
	if len(w.interned) != 0 {
		t.Errorf("%d series are remembered of nobody", len(w.interned))
	}
}

// TestChurn: a proxy lets idle series go, as those of each run of a CronJob; so does
// the window.
func TestChurn(t *testing.T) {
	w := NewWindow(10 * time.Second)
	var b bytes.Buffer
	for i := range 120 {
		body := append(others(&b, i*1000, 1000), fmt.Sprintf("istio_requests_total{reporter=\"source\",destination_service=\"a\"} %d\n", 5*i)...)
		if err := w.Add("p", at(i), body); err != nil {
			t.Fatalf("scrape %d: %v", i, err)
		}
	}
	in := w.instances["p"]
	if n := len(in.series); n > 15_000 || n != len(in.index) || n != len(w.interned) {
		t.Errorf("%d series, %d in the index, %d by text: twelve scrapes of 1,001 are in the window", n, len(in.index), len(w.interned))
	}
	for _, f := range w.Flows(at(119), time.Time{}) {
		if f.Service == "a" && f.Requests != 50 {
			t.Errorf("%g requests in ten seconds, want 50", f.Requests)
		}
	}
}
