package rotation

import (
	"bytes"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write what the scripts answer into testdata")

// world is what a script works on.
type world struct {
	t        *testing.T
	now      time.Time
	record   *Record
	roots    map[string]string // name of a root: "A", "B", …
	reports  []Report
	expected int
}

func (w *world) generate() *ca.Material {
	m, err := ca.Generate("cluster.local", 0, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	certs, err := mtls.ParseBundle(m.Cert)
	if err != nil {
		w.t.Fatal(err)
	}
	w.roots[mtls.BundleID(certs[0])] = string(rune('A' + len(w.roots)))
	return m
}

// show says what proxies see of the record.
func (w *world) show() string {
	roots, err := mtls.ParseBundle(w.record.Material.Roots)
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, r := range roots {
		names = append(names, w.roots[mtls.BundleID(r)])
	}
	slices.Sort(names)
	by, err := w.record.Material.Root()
	if err != nil {
		w.t.Fatal(err)
	}
	step := w.record.State.Step
	if step == Stable {
		step = "stable"
	}
	next := ""
	if w.record.Next != nil {
		next = ", the next one is kept"
	}
	return fmt.Sprintf("%s: %s trusted, %s signs%s\n", step, strings.Join(names, " and "), w.roots[mtls.BundleID(by)], next)
}

func (w *world) do(line string) string {
	f := strings.Fields(line)
	switch f[0] {
	case "begin":
		r, err := Begin(w.record, w.generate(), slices.Contains(f, "now"), w.now)
		if errors.Is(err, ErrRunning) {
			return "refused: a rotation is under way\n"
		}
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		w.record = r
		return w.show()
	case "replica": // NAME [connected=N] [unacked=N] [unled=N] [young] [late]
		r := Report{Replica: f[1]}
		root, err := w.record.Material.Root()
		if err != nil {
			w.t.Fatal(err)
		}
		roots, err := mtls.ParseBundle(w.record.Material.Roots)
		if err != nil {
			w.t.Fatal(err)
		}
		r.Bundle, r.Root = mtls.BundleID(roots...), mtls.BundleID(root)
		for _, x := range f[2:] {
			key, value, _ := strings.Cut(x, "=")
			n, _ := strconv.Atoi(value)
			switch key {
			case "connected":
				r.Connected = n
			case "unacked":
				r.Unacked = n
			case "unled":
				r.Unled = n
			case "young":
				r.Young = true
			case "late":
				r.Bundle = "another"
			default:
				w.t.Fatalf("%q", x)
			}
		}
		for i := range max(r.Unacked, r.Unled) {
			r.Waiting = append(r.Waiting, fmt.Sprintf("shop/%s-%d", f[1], i+1))
		}
		w.reports = append(slices.DeleteFunc(w.reports, func(o Report) bool { return o.Replica == r.Replica }), r)
	case "gone":
		w.reports = slices.DeleteFunc(w.reports, func(o Report) bool { return o.Replica == f[1] })
	case "expected":
		w.expected, _ = strconv.Atoi(f[1])
	case "after":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			w.t.Fatal(err)
		}
		w.now = w.now.Add(d)
	case "damage": // the next root is lost
		r := *w.record
		r.Next = nil
		w.record = &r
	case "step":
		r, moved, why, err := Advance(w.record, Fleet{w.reports, w.expected}, 24*time.Hour, w.now)
		switch {
		case err != nil:
			return "error: " + err.Error() + "\n"
		case moved:
			w.record = r
			return w.show()
		case why == "":
			return "nothing to do\n"
		}
		return "waits: " + why + "\n"
	default:
		w.t.Fatalf("no command %q", f[0])
	}
	return ""
}

// TestScripts plays testdata/*.txt: a line that begins with ">" is a command, what
// follows it is its answer. -update writes the answers.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			w := &world{t: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), roots: map[string]string{}}
			w.record = &Record{Material: *w.generate()}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for line := range strings.Lines(string(data)) {
				switch {
				case strings.HasPrefix(line, "> "):
					got.WriteString(line)
					got.WriteString(w.do(strings.TrimSpace(line[2:])))
				case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "":
					got.WriteString(line)
				}
			}
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != string(data) {
				t.Errorf("got:\n%s", got.String())
			}
		})
	}
}

// TestNeverUntrusted walks through a rotation and checks at each moment what the
// whole thing is for: what signs before a step is trusted after it, and the reverse.
func TestNeverUntrusted(t *testing.T) {
	w := &world{t: t, now: time.Now(), roots: map[string]string{}}
	w.record = &Record{Material: *w.generate()}
	trusts := func(r *Record, signer *x509.Certificate) bool {
		roots, err := mtls.ParseBundle(r.Material.Roots)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(roots, signer.Equal)
	}
	signer := func(r *Record) *x509.Certificate {
		c, err := r.Material.Root()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	w.do("begin")
	for i := 0; w.record.State.Step != Stable; i++ {
		if i > 10 {
			t.Fatal("it does not end")
		}
		before := w.record
		w.do("replica a connected=3")
		if out := w.do("step"); strings.HasPrefix(out, "waits") {
			t.Fatal(out)
		}
		if w.record.State.Step != Retire && !trusts(w.record, signer(before)) {
			t.Errorf("%s: what signed before is trusted no more", w.record.State.Step)
		}
		if !trusts(before, signer(w.record)) {
			t.Errorf("%s: what signs now was not trusted before", w.record.State.Step)
		}
	}
}

// TestDir: a folder keeps a rotation through a crash at any step, and is an ordinary
// one after it.
func TestDir(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	if _, err := ca.Open(ca.Options{Dir: state, TrustDomain: "cluster.local"}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(state, "ca")
	first, err := (&Dir{Path: dir}).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next, err := ca.Generate("cluster.local", 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r, err := Begin(first, next, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Dir{Path: dir}).Save(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := (&Dir{Path: dir}).Save(t.Context(), r); !errors.Is(err, ErrConflict) {
		t.Errorf("a second writer: %v", err)
	}
	for _, want := range []Step{Distribute, Activate, Retire, Stable} {
		store := &Dir{Path: dir} // a new process
		r, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		root, err := r.Material.Root()
		if err != nil {
			t.Fatal(err)
		}
		roots, err := mtls.ParseBundle(r.Material.Roots)
		if err != nil {
			t.Fatal(err)
		}
		f := Fleet{Reports: []Report{{Bundle: mtls.BundleID(roots...), Root: mtls.BundleID(root)}}}
		r, moved, why, err := Advance(r, f, time.Hour, time.Now())
		if err != nil || !moved || r.State.Step != want {
			t.Fatalf("%q: %v %s %v", want, moved, why, err)
		}
		if err := store.Save(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	a, err := ca.Open(ca.Options{Dir: state, TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	if mtls.BundleID(a.Root()) != r.State.New || len(a.Roots()) != 1 {
		t.Error("the folder does not hold the new root alone")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 || f.Name() == fileRotation {
			t.Errorf("%s: %v %v", f.Name(), info.Mode(), err)
		}
	}
}
