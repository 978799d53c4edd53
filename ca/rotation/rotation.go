// Package rotation replaces a mesh's root certificate while the mesh runs.
//
// It is a pure state machine: what enters is a Record (the keys, and how far the
// rotation is), what the replicas of the control plane report of their proxies, and
// the time; what leaves is the next Record and a sentence about what is waited for.
// It never lets a root sign that some proxy does not trust yet, and never takes one
// away that some proxy's certificate still leads to.
package rotation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/mtls"
)

// Step is how far a rotation is.
type Step string

const (
	// Stable: one root, no rotation.
	Stable Step = ""
	// Prepare: the next root is made and kept; nobody trusts it.
	Prepare Step = "prepare"
	// Distribute: it is in the trust bundle beside the old one, which signs.
	Distribute Step = "distribute"
	// Activate: it signs; proxies ask for certificates of it. Both are trusted.
	Activate Step = "activate"
	// Retire: the old root is out of the trust bundle.
	Retire Step = "retire"
)

// State is how far a rotation is, as it is kept beside the keys.
type State struct {
	Step   Step      `json:"step"`
	Number int       `json:"number"`         // rotations begun since the first root
	Began  time.Time `json:"began,omitzero"` // the rotation
	Since  time.Time `json:"since,omitzero"` // the step
	Old    string    `json:"old,omitempty"`  // names of the roots
	New    string    `json:"new,omitempty"`
	// Brought: the root, or the one that is on its way in, was brought by somebody.
	Brought bool `json:"brought,omitempty"`
	// Impatient: proxies that are not connected are not waited for.
	Impatient bool `json:"impatient,omitempty"`
	// Ended is when the last rotation was over.
	Ended time.Time `json:"ended,omitzero"`
}

// Record is everything that is kept of an authority. Immutable once it is handed over.
type Record struct {
	Material ca.Material
	Next     *ca.Material // the root that does not sign yet
	State    State
	Version  string // of the store; whoever writes over another's is refused
}

// Report is what one replica says of itself and of the proxies that are connected
// to it.
type Report struct {
	Replica   string `json:"replica"`
	Bundle    string `json:"bundle"` // the trust bundle that it serves
	Root      string `json:"root"`   // that it signs by
	Connected int    `json:"connected"`
	Unacked   int    `json:"unacked"` // proxies that have not acknowledged Bundle
	Unled     int    `json:"unled"`   // whose certificate does not lead to Root
	// Young: it has just started, and proxies that it had before are on their way back.
	Young   bool     `json:"young,omitempty"`
	Waiting []string `json:"waiting,omitempty"` // some of their names
}

// Fleet is what all replicas report, and how many proxies there ought to be.
type Fleet struct {
	Reports  []Report
	Expected int
}

var (
	// ErrRunning refuses to begin a rotation while one is under way.
	ErrRunning = errors.New("rotation: a rotation is under way")
	// ErrRecord says that keys and State contradict each other.
	ErrRecord = errors.New("rotation: the kept state is broken")
	// ErrConflict says that somebody else has written meanwhile: load again.
	ErrConflict = errors.New("rotation: somebody else has written meanwhile")
)

// Begin returns a record in step Prepare, with next as the root to come.
func Begin(r *Record, next *ca.Material, impatient bool, now time.Time) (*Record, error) {
	if r.State.Step != Stable {
		return nil, fmt.Errorf("%w (step %s since %s): seine ca status says what it waits for", ErrRunning, r.State.Step, r.State.Since.UTC().Format(time.RFC3339))
	}
	old, err := signing(&r.Material)
	if err != nil {
		return nil, err
	}
	fresh, err := signing(next)
	if err != nil {
		return nil, err
	}
	out := *r
	out.Next = next
	out.State = State{
		Step: Prepare, Number: r.State.Number + 1, Began: now, Since: now, Impatient: impatient,
		Old: mtls.BundleID(old), New: mtls.BundleID(fresh),
	}
	return &out, nil
}

// Adopt returns the record in which what somebody brought takes the place of what
// signs, and true; or r itself and false, if it is that already or a rotation is under
// way. Where proxies trust the root of what was brought, it signs at once; another
// root is brought in step by step, as one that is made here.
func Adopt(r *Record, brought *ca.Material, now time.Time) (*Record, bool, error) {
	if r.State.Step != Stable {
		return r, false, nil
	}
	fresh, err := brought.Root()
	if err != nil {
		return r, false, err
	}
	if end, err := brought.End(); err != nil || !now.Before(end) {
		return r, false, errors.Join(err, fmt.Errorf("%w (%s)", ca.ErrExpired, end.UTC().Format(time.RFC3339)))
	}
	trusted, err := mtls.ParseBundle(r.Material.Roots)
	if err != nil {
		return r, false, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if !slices.ContainsFunc(trusted, fresh.Equal) {
		out, err := Begin(r, brought, false, now)
		if err != nil {
			return r, false, err
		}
		out.State.Brought = true
		return out, true, nil
	}
	if r.State.Brought && r.Material.Same(brought) {
		return r, false, nil
	}
	out := *r
	out.Material, out.State.Brought = *brought, true
	return &out, true, nil
}

// Hurry returns the record in which the rotation that is under way waits no longer for
// proxies that are not connected.
func Hurry(r *Record) *Record {
	out := *r
	out.State.Impatient = true
	return &out
}

// Advance returns the record of the next step and true, or r itself, false and what
// is waited for. life is the longest life of a leaf: a proxy that is not connected
// for so long has nothing left that could fail.
func Advance(r *Record, f Fleet, life time.Duration, now time.Time) (*Record, bool, string, error) {
	switch r.State.Step {
	case Stable:
		return r, false, "", nil
	case Prepare:
		if r.Next == nil {
			return nil, false, "", fmt.Errorf("%w: step prepare without the next root", ErrRecord)
		}
		out := *r
		out.Material.Roots = append(trimmed(r.Material.Roots), r.Next.Roots...)
		return step(&out, Distribute, now), true, "", nil
	case Distribute:
		if r.Next == nil {
			return nil, false, "", fmt.Errorf("%w: step distribute without the next root", ErrRecord)
		}
		if why, err := waitFor(r, f, false, life, now); why != "" || err != nil {
			return r, false, why, err
		}
		out := *r
		out.Material.Cert, out.Material.Key, out.Material.Chain = r.Next.Cert, r.Next.Key, r.Next.Chain
		out.Next = nil
		return step(&out, Activate, now), true, "", nil
	case Activate:
		if why, err := waitFor(r, f, true, life, now); why != "" || err != nil {
			return r, false, why, err
		}
		roots, err := mtls.ParseBundle(r.Material.Roots)
		if err != nil {
			return nil, false, "", fmt.Errorf("%w: %w", ErrRecord, err)
		}
		out := *r
		out.Material.Roots = nil
		for _, root := range roots {
			if mtls.BundleID(root) != r.State.Old {
				out.Material.Roots = append(out.Material.Roots, ca.PEM(root)...)
			}
		}
		return step(&out, Retire, now), true, "", nil
	case Retire:
		if why, err := waitFor(r, f, true, life, now); why != "" || err != nil {
			return r, false, why, err
		}
		out := *r
		out.State = State{Number: r.State.Number, Ended: now, Brought: r.State.Brought}
		return &out, true, "", nil
	}
	return nil, false, "", fmt.Errorf("%w: step %.50q", ErrRecord, r.State.Step)
}

func step(r *Record, s Step, now time.Time) *Record {
	r.State.Step, r.State.Since = s, now
	return r
}

// waitFor says what r's step waits for, "" if for nothing. led demands that
// certificates lead to the root that signs.
func waitFor(r *Record, f Fleet, led bool, life time.Duration, now time.Time) (string, error) {
	roots, err := mtls.ParseBundle(r.Material.Roots)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRecord, err)
	}
	root, err := signing(&r.Material)
	if err != nil {
		return "", err
	}
	bundle, by := mtls.BundleID(roots...), mtls.BundleID(root)
	if len(f.Reports) == 0 {
		return "no replica of the control plane has reported yet", nil
	}
	connected, waiting := 0, 0
	var late, young, names []string
	for _, p := range f.Reports {
		connected += p.Connected
		if p.Young {
			young = append(young, p.Replica)
		}
		if p.Bundle != bundle || p.Root != by {
			late = append(late, p.Replica)
			continue
		}
		n := p.Unacked
		if led {
			n = max(n, p.Unled)
		}
		if n > 0 {
			waiting += n
			names = append(names, p.Waiting...)
		}
	}
	switch {
	case len(late) > 0:
		return "replicas that have not taken the step yet: " + list(late), nil
	case waiting > 0 && led && r.State.Step == Activate:
		return fmt.Sprintf("%d of %d proxies have no certificate of the new root yet: %s", waiting, connected, list(names)), nil
	case waiting > 0:
		return fmt.Sprintf("%d of %d proxies have not acknowledged the trust bundle yet: %s", waiting, connected, list(names)), nil
	}
	missing := f.Expected - connected
	if missing > 0 && len(young) > 0 {
		return "replicas that have just started, for proxies to come back to them: " + list(young), nil
	}
	if missing > 0 && !r.State.Impatient {
		if end := r.State.Since.Add(life); now.Before(end) {
			return fmt.Sprintf("%d of %d proxies are not connected; they are waited for until %s, when their certificates have ended, or not at all with --now",
				missing, f.Expected, end.UTC().Format(time.RFC3339)), nil
		}
	}
	return "", nil
}

func list(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// signing returns the root that m's certificate leads to.
func signing(m *ca.Material) (*x509.Certificate, error) {
	root, err := m.Root()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return root, nil
}

// trimmed is PEM that more can be put after.
func trimmed(pem []byte) []byte {
	out := append([]byte(nil), pem...)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return out
}
