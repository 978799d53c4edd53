package stat

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/telemetry"
)

// out registers what the proxy has ejected: cluster, endpoint, address, cause each.
func (p *proxy) out(until time.Time, of ...[4]string) {
	p.reg.GaugesFunc(telemetry.OutlierEjectedUntil, "", func(add func(float64, ...string)) {
		for _, e := range of {
			add(float64(until.UnixMilli())/1000, "cluster", e[0], "endpoint", e[1], "address", e[2], "cause", e[3])
		}
	})
}

func TestEjected(t *testing.T) {
	const (
		v1    = "outbound|8080|v1|billing-service.default.svc.cluster.local"
		plain = "outbound|8080||billing-service.default.svc.cluster.local"
	)
	w := NewWindow(10 * time.Second)
	a, b := newProxy("default/a"), newProxy("default/b")
	bad := [4]string{v1, "default/billing-v1-2", "10.0.0.7:8080", "consecutive_5xx"}
	both := bad
	both[0] = plain
	a.out(at(40), bad, both, [4]string{"other", "", "[fd00::1]:80", "consecutive_\x1b[31m\"5xx"})
	bad[3] = "consecutive_gateway_failure"
	b.out(at(35), bad)
	a.scrape(t, w, 0)
	b.scrape(t, w, 0)
	table := w.Table(at(1))
	if n := len(table.Ejected); n != 2 {
		t.Fatalf("%d are out: %+v", n, table.Ejected)
	}
	e := table.Ejected[0]
	if e.Proxies != 2 || !e.Until.Equal(at(40)) || fmt.Sprint(e.Subsets, e.Causes) != "[v1] [consecutive_5xx consecutive_gateway_failure]" {
		t.Errorf("%+v", e)
	}
	for name, o := range map[string]TextOptions{"ejected": {}, "ejected-narrow": {Width: 40, Color: true}} {
		var text strings.Builder
		if err := table.WriteText(&text, o); err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".txt"
		if *update {
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || text.String() != string(want) {
			t.Errorf("%s: %v\n%s", name, err, text.String())
		}
	}

	// What has returned, and what a proxy that is gone said, is not shown.
	a.out(at(40))
	a.scrape(t, w, 2)
	w.Remove("default/b")
	if table := w.Table(at(3)); len(table.Ejected) != 0 {
		t.Errorf("%+v", table.Ejected)
	}
}

// TestEjectedMany: a hostile or sick proxy fills neither memory nor the screen.
func TestEjectedMany(t *testing.T) {
	var many [][4]string
	for i := range maxEjected + 10 {
		many = append(many, [4]string{"outbound|80||s", "", fmt.Sprintf("10.0.%d.%d:80", i/250, i%250), "consecutive_5xx"})
	}
	w, p := NewWindow(10*time.Second), newProxy("default/a")
	p.out(at(1e12), many...)
	p.scrape(t, w, 0)
	table := w.Table(at(1))
	if n := len(table.Ejected); n != maxEjected {
		t.Errorf("%d are kept", n)
	}
	if y := table.Ejected[0].Until.Year(); y > 9999 {
		t.Errorf("year %d has no JSON", y)
	}
	var text strings.Builder
	_ = table.WriteText(&text, TextOptions{})
	if n := strings.Count(text.String(), "\n"); n != maxEjectedLines+2 || !strings.Contains(text.String(), "and 980 endpoints more") {
		t.Errorf("%d lines:\n%s", n, text.String())
	}
}
