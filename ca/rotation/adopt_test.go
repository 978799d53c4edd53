package rotation

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/mtls"
)

// memory is a Store.
type memory struct{ r *Record }

func (m *memory) Load(context.Context) (*Record, error)   { return m.r, nil }
func (m *memory) Save(_ context.Context, r *Record) error { m.r = r; return nil }

// TestAdopt: a root that somebody brings while the mesh runs never signs before every
// proxy trusts it, and what is brought below a root that they trust signs at once.
func TestAdopt(t *testing.T) {
	now := time.Now()
	made := func(ttl time.Duration) *ca.Material {
		m, err := ca.Generate("cluster.local", ttl, now)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first, second, third := made(0), made(0), made(0)
	store := &memory{&Record{Material: *first}}
	var brought *ca.Material
	var broken error
	unacked := 1
	d := &Driver{
		Store: store, TrustDomain: "cluster.local", Life: time.Hour, Now: func() time.Time { return now },
		Brought: func(context.Context) (*ca.Material, error) { return brought, broken },
		Fleet: func(context.Context) (Fleet, error) {
			s, err := signing(&store.r.Material)
			if err != nil {
				return Fleet{}, err
			}
			roots, err := mtls.ParseBundle(store.r.Material.Roots)
			return Fleet{Reports: []Report{{Replica: "seined-1", Bundle: mtls.BundleID(roots...), Root: mtls.BundleID(s), Connected: 3, Unacked: unacked}}, Expected: 3}, err
		},
	}
	step := func(want Step) *Record {
		t.Helper()
		r, _, err := d.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.State.Step != want {
			t.Fatalf("step %q, want %q", r.State.Step, want)
		}
		return r
	}
	if step(Stable).State.Brought {
		t.Error("nothing was brought")
	}
	brought = second
	step(Prepare)
	step(Distribute)
	if r := step(Distribute); !signs(t, r, first) || !r.State.Brought {
		t.Error("it signs although a proxy does not trust it yet")
	}
	unacked = 0
	step(Activate)
	step(Retire)
	step(Stable)
	if r := step(Stable); !r.Material.Same(second) || !r.State.Brought {
		t.Errorf("%+v", r.State)
	}
	if _, err := d.Begin(t.Context(), false); !errors.Is(err, ErrBrought) {
		t.Errorf("a root was made although one is brought: %v", err)
	}

	// The next root beside the one that signs, then what signs by it: as Istio's users do it.
	both := *second
	both.Roots = append(trimmed(second.Roots), third.Roots...)
	brought = &both
	if r := step(Stable); !signs(t, r, second) || !r.Material.Same(&both) {
		t.Error("both roots were not taken at once")
	}
	next := *third
	next.Roots = both.Roots
	brought = &next
	if r := step(Stable); !signs(t, r, third) {
		t.Error("a root that is trusted does not sign at once")
	}

	// What cannot be taken changes nothing.
	brought = made(time.Nanosecond)
	now = now.Add(time.Second)
	if _, _, err := d.Step(t.Context()); !errors.Is(err, ca.ErrExpired) || !signs(t, store.r, third) {
		t.Errorf("a root that has ended: %v", err)
	}
	brought, broken = nil, errors.New("broken")
	if _, _, err := d.Step(t.Context()); !errors.Is(err, broken) || !signs(t, store.r, third) {
		t.Errorf("a broken one: %v", err)
	}
	// It vanishes: the mesh goes on with it, and a root may be made again.
	broken, unacked = nil, 1
	if r := step(Stable); !signs(t, r, third) {
		t.Error("what vanished was taken away")
	}
	if _, err := d.Begin(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	step(Distribute)
	if _, err := d.Begin(t.Context(), false); !errors.Is(err, ErrRunning) {
		t.Errorf("a second rotation beside the first: %v", err)
	}
	if r, err := d.Begin(t.Context(), true); err != nil || !r.State.Impatient || r.State.Step != Distribute {
		t.Errorf("in a hurry: %v, %+v", err, r)
	}
}

func signs(t *testing.T, r *Record, m *ca.Material) bool {
	t.Helper()
	a, err := signing(&r.Material)
	if err != nil {
		t.Fatal(err)
	}
	b, err := signing(m)
	if err != nil {
		t.Fatal(err)
	}
	return a.Equal(b)
}
