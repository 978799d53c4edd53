package mtls

import "testing"

// TestBursts: a receiver hears of many handshakes once they are over, not of
// each one, and nobody waits for it.
func TestBursts(t *testing.T) {
	f := NewFactory(nil, Options{})
	told := func() bool {
		select {
		case <-f.Bursts():
			return true
		default:
			return false
		}
	}
	for range burst - 1 {
		if err := f.admit(); err != nil {
			t.Fatal(err)
		}
		f.leave()
	}
	if told() {
		t.Error("told of fewer than a burst")
	}
	for range 3 * burst {
		if err := f.admit(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3*burst - 1 {
		f.leave()
	}
	if told() {
		t.Error("told while one still runs")
	}
	f.leave()
	if !told() {
		t.Error("not told when the last was over")
	}
	for range 4 * burst {
		if err := f.admit(); err != nil {
			t.Fatal(err)
		}
		f.leave()
	}
	if !told() || told() {
		t.Error("want to be told once when nobody listened")
	}
}
