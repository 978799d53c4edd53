//go:build linux

package local

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seinemesh/seine/config"
)

func TestLastOfEach(t *testing.T) {
	got := lastOfEach([]string{"PATH=/bin", "A=1", "PATH=/own", "A=", "B"})
	if diff := cmp.Diff([]string{"PATH=/own", "A=", "B"}, got); diff != "" {
		t.Error(diff)
	}
}

// An entry is read back as what it says.
func TestEntry(t *testing.T) {
	dir := t.TempDir()
	d := entries{dir: filepath.Join(dir, "mesh"), temp: filepath.Join(dir, "new")}
	for _, sub := range []string{d.dir, d.temp} {
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e := entry{
		Namespace: "shop", Instance: "cart-1", App: "cart", ServiceAccount: "sa", Labels: map[string]string{"app": "cart", "x": "true"},
		Ports: []config.LocalPort{{Name: "http", Number: 8080}, {Number: 9}}, Addr: netip.MustParseAddr("10.244.1.2"), Sidecar: true,
	}
	for _, healthy := range []bool{false, true} {
		e.Healthy = healthy
		if err := d.write(&e); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(d.path(&e))
		if err != nil {
			t.Fatal(err)
		}
		r := config.Build([]config.File{{Name: "entry.yaml", Data: data}}, config.Options{})
		if len(r.Findings) > 0 {
			t.Error(r.Findings)
		}
		w := r.Snapshot.Workload("shop/cart-1")
		if w == nil {
			t.Fatal("no such workload")
		}
		if w.App != "cart" || w.ServiceAccount != "sa" || w.Labels["app"] != "cart" || w.Labels["x"] != "true" || w.Ports["http"] != 8080 ||
			w.Addresses[0] != e.Addr || !w.Sidecar || w.Gateway || w.Unhealthy == healthy {
			t.Errorf("%+v", w)
		}
	}
	for range 2 { // what is gone already is no error
		if err := d.remove(&e); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestPrinter(t *testing.T) {
	var plain bytes.Buffer
	p := newPrinter(&plain, false)
	p.event("one %d", 1)
	p.line("web-1", 0, "a\x1b[2Jb\rc\td")
	p.table("T\n")
	p.close()
	if got, want := plain.String(), "one 1\nweb-1 | a·[2Jb·c\td\nT\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	// On a terminal the table stays last: what is printed goes above it.
	screen := &lines{}
	p = newPrinter(screen, true)
	for _, f := range []func(){
		func() { p.table("\nA\n") }, func() { p.event("x") }, func() { p.table("B\n") }, p.leave, func() { p.event("end") },
	} {
		f()
	}
	p.close()
	if diff := cmp.Diff([]string{"x", "B", "end", ""}, screen.rows); diff != "" {
		t.Error(diff)
	}
}

// lines is a terminal that understands what the printer uses: cursor up, and
// clear to the end.
type lines struct{ rows []string }

func (l *lines) Write(b []byte) (int, error) {
	if l.rows == nil {
		l.rows = []string{""}
	}
	text := string(b)
	if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
		n := int(rest[0] - '0')
		text = strings.TrimPrefix(rest[1:], "A\x1b[J")
		l.rows = l.rows[:len(l.rows)-n]
		l.rows[len(l.rows)-1] = ""
	}
	parts := strings.Split(text, "\n")
	l.rows[len(l.rows)-1] += parts[0]
	l.rows = append(l.rows, parts[1:]...)
	return len(b), nil
}

func TestNsswitch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nsswitch.conf")
	if err := os.WriteFile(path, []byte("passwd: files sss\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n hosts: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := nsswitch(path), "passwd: files sss\nhosts: files dns\n"; got != want {
		t.Errorf("got %q", got)
	}
	if got := nsswitch(path + ".none"); got != "hosts: files dns\n" {
		t.Errorf("without one: %q", got)
	}
}

func TestScreenIsBounded(t *testing.T) {
	if got := top("a\nb\nc\n", 2); got != "a\nb\n" {
		t.Errorf("%q", got)
	}
	if got := cut("äöüß", 3); got != "äö…" {
		t.Errorf("%q", got)
	}
}
