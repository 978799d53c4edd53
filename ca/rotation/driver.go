package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seinemesh/seine/ca"
)

// Store keeps one Record: a Secret, or a folder. Safe for concurrent use.
type Store interface {
	Load(context.Context) (*Record, error)
	// Save writes a record that was made of what Load returned, whole or not at all.
	// ErrConflict: somebody else has written since.
	Save(context.Context, *Record) error
}

// Driver moves a stored Record on. Exactly one replica calls Step at a time; if two
// do, the store lets one of them win.
type Driver struct {
	Store       Store
	TrustDomain string
	Life        time.Duration // the longest life of a leaf
	// Brought returns the authority that somebody keeps for this mesh, nil if nobody
	// does; nil: nobody ever does.
	Brought func(context.Context) (*ca.Material, error)
	Fleet   func(context.Context) (Fleet, error)
	Now     func() time.Time // nil: time.Now
}

func (d *Driver) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}

// ErrBrought refuses to make a root where somebody keeps one for this mesh.
var ErrBrought = errors.New("rotation: the root was brought: replace it where it is kept, and it is brought in step by step, as a new one would be")

// Begin makes a new root and begins to bring it in. Any replica may. While a rotation
// is under way it is refused, unless it is impatient: then that one hurries.
func (d *Driver) Begin(ctx context.Context, impatient bool) (*Record, error) {
	r, err := d.Store.Load(ctx)
	if err != nil {
		return nil, err
	}
	if impatient && r.State.Step != Stable {
		out := Hurry(r)
		if err := d.Store.Save(ctx, out); err != nil {
			return nil, fmt.Errorf("rotation: hurry: %w", err)
		}
		return out, nil
	}
	if d.Brought != nil && r.State.Step == Stable {
		if m, err := d.Brought(ctx); m != nil || err != nil {
			return nil, errors.Join(ErrBrought, err)
		}
	}
	now := d.now()
	next, err := ca.Generate(d.TrustDomain, 0, now)
	if err != nil {
		return nil, err
	}
	out, err := Begin(r, next, impatient, now)
	if err != nil {
		return nil, err
	}
	if err := d.Store.Save(ctx, out); err != nil {
		return nil, fmt.Errorf("rotation: begin: %w", err)
	}
	return out, nil
}

// Step takes at most one step and returns where the rotation is and what is waited
// for. What fails is tried again with the next call; nothing is half done.
func (d *Driver) Step(ctx context.Context) (*Record, string, error) {
	r, err := d.Store.Load(ctx)
	if err != nil {
		return nil, "", err
	}
	if r.State.Step == Stable {
		return d.adopt(ctx, r)
	}
	f, err := d.Fleet(ctx)
	if err != nil {
		return r, "", fmt.Errorf("rotation: what the proxies have: %w", err)
	}
	next, moved, why, err := Advance(r, f, d.Life, d.now())
	if err != nil || !moved {
		return r, why, err
	}
	if err := d.Store.Save(ctx, next); errors.Is(err, ErrConflict) {
		return r, "another replica wrote at the same moment", nil
	} else if err != nil {
		return r, "", fmt.Errorf("rotation: step %s: %w", next.State.Step, err)
	}
	return next, "", nil
}

// adopt looks for an authority that somebody has brought since.
func (d *Driver) adopt(ctx context.Context, r *Record) (*Record, string, error) {
	if d.Brought == nil {
		return r, "", nil
	}
	m, err := d.Brought(ctx)
	if err != nil || m == nil {
		return r, "", err
	}
	next, changed, err := Adopt(r, m, d.now())
	if err != nil {
		return r, "", fmt.Errorf("rotation: what was brought: %w", err)
	}
	if !changed {
		return r, "", nil
	}
	if err := d.Store.Save(ctx, next); errors.Is(err, ErrConflict) {
		return r, "another replica wrote at the same moment", nil
	} else if err != nil {
		return r, "", fmt.Errorf("rotation: what was brought: %w", err)
	}
	return next, "", nil
}
