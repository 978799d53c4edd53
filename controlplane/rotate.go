package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/ca/kube"
	"github.com/seinemesh/seine/ca/rotation"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/plan"
)

const (
	rotateEvery = 500 * time.Millisecond // between looks while a rotation runs
	restEvery   = 30 * time.Second       // while none does; whoever begins one says so
	reportEvery = 10 * time.Second       // although nothing has changed
	settleAfter = 10 * time.Second       // proxies try again within 5
	waitingMost = 5                      // names in a report
	leafLife    = 24 * time.Hour         // where no flag says otherwise
)

// rotator is what a rotation needs of a running control plane.
type rotator struct {
	driver  *rotation.Driver // nil: the root is a folder's that was brought
	reports *kube.Reports    // nil: there is one replica, this one
	take    func(*rotation.Record)
	kick    chan struct{} // receives when a rotation may have begun
}

// stir has the leader look at the record now.
func (r *rotator) stir() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// newRotator says where the root is kept, and so how it is replaced.
func (s *server) newRotator() *rotator {
	r := &rotator{kick: make(chan struct{}, 1)}
	life := s.opt.CertTTL
	if life <= 0 {
		life = leafLife
	}
	c := s.opt.Cluster
	if c != nil {
		r.reports = &kube.Reports{Client: c.Client, Namespace: c.Namespace, Replica: c.Pod}
	}
	switch {
	case s.opt.CACerts != "":
		return r
	case c != nil:
		r.driver = &rotation.Driver{Store: kube.Records{Roots: s.roots}, Brought: s.roots.Brought}
		r.take = func(*rotation.Record) {} // the Secret's watch does
	default:
		r.driver = &rotation.Driver{Store: &rotation.Dir{Path: filepath.Join(s.opt.State, "ca")}}
		r.take = s.takeRecord
	}
	r.driver.TrustDomain, r.driver.Life, r.driver.Fleet = s.authority.TrustDomain(), life, s.fleet
	return r
}

// takeRecord makes what a folder holds the authority.
func (s *server) takeRecord(r *rotation.Record) {
	if err := s.authority.Set(&r.Material, s.opt.State); err != nil {
		s.log.Error("the certificate authority was not taken; what was taken before goes on", "err", err)
	}
}

// self is plan.Self with the trust bundle of this moment.
func (s *server) self(snap *mesh.Snapshot, w *mesh.Workload) *seinev1.Self {
	m := plan.Self(snap, w)
	if m == nil {
		return nil
	}
	t := s.authority.Trust()
	m.TrustBundle, m.TrustBundleId, m.SigningRootId = t.Bundle, t.ID, t.Root
	return m
}

// report is what this replica knows of its proxies.
func (s *server) report() rotation.Report {
	t := s.authority.Trust()
	root := s.authority.Root()
	r := rotation.Report{Bundle: t.ID, Root: t.Root}
	if s.opt.Cluster != nil {
		r.Replica = s.opt.Cluster.Pod
	}
	now := time.Now()
	r.Young = now.Sub(s.started) < settleAfter
	seen := map[string]struct{}{}
	for _, p := range s.discovery.Trusting() {
		seen[p.ID] = struct{}{}
		unacked, unled := p.Bundle != t.ID, !mtls.LeadsTo(p.Chain, now, root)
		if unacked {
			r.Unacked++
		}
		if unled {
			r.Unled++
		}
		if unacked || unled {
			r.Waiting = append(r.Waiting, p.ID)
		}
	}
	r.Connected = len(seen)
	slices.Sort(r.Waiting)
	r.Waiting = slices.Compact(r.Waiting)
	r.Waiting = r.Waiting[:min(len(r.Waiting), waitingMost)]
	return r
}

// fleet is what all replicas know of theirs.
func (s *server) fleet(ctx context.Context) (rotation.Fleet, error) {
	f := rotation.Fleet{}
	snap := s.discovery.Snapshot()
	if snap == nil {
		return f, nil // nobody can say yet which proxies there are: nothing moves
	}
	for _, w := range snap.Workloads {
		if w.Sidecar && !w.Unhealthy {
			f.Expected++
		}
	}
	own := s.report()
	if s.rotator.reports == nil {
		f.Reports = []rotation.Report{own}
		return f, nil
	}
	all, err := s.rotator.reports.Read(ctx, time.Now())
	if err != nil {
		return f, err
	}
	// Of this one, what is so now.
	f.Reports = append(slices.DeleteFunc(all, func(r rotation.Report) bool { return r.Replica == own.Replica }), own)
	return f, nil
}

// rotate keeps a rotation going until ctx ends: the leader moves it, all report.
func (s *server) rotate(ctx context.Context, g *errgroup.Group) {
	if s.rotator.reports != nil {
		g.Go(func() error { s.keepReporting(ctx); return nil })
	}
	if s.rotator.driver == nil {
		return
	}
	g.Go(func() error { return s.lead.while(ctx, "rotating the root certificate", s.keepRotating) })
}

func (s *server) keepReporting(ctx context.Context) {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	var last rotation.Report
	var at time.Time
	for {
		now := time.Now()
		if r := s.report(); now.Sub(at) >= reportEvery || !reflect.DeepEqual(r, last) {
			if err := s.rotator.reports.Write(ctx, r, now); err == nil {
				last, at = r, now
			} else if ctx.Err() == nil && now.Sub(at) > reportEvery {
				at = now.Add(-reportEvery / 2) // not each half second
				s.log.Warn("what this replica's proxies trust could not be reported", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := s.rotator.reports.Remove(end); err != nil {
				s.log.Warn("this replica's report stays until it is too old", "err", err)
			}
			return
		case <-tick.C:
		}
	}
}

func (s *server) keepRotating(ctx context.Context) error {
	step, said := rotation.Stable, ""
	for {
		wait := restEvery
		r, why, err := s.rotator.driver.Step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kube.ErrNone):
		case err != nil:
			wait = 2 * time.Second
			if said != err.Error() {
				said = err.Error()
				s.log.Error("the rotation of the root certificate does not go on", "err", err)
			}
		default:
			if r.State.Step != rotation.Stable {
				wait = rotateEvery
			}
			if r.State.Step != step {
				s.log.Info("rotation of the root certificate", "step", stepName(r.State), "number", r.State.Number, "old", r.State.Old, "new", r.State.New)
				step = r.State.Step
			}
			if why != "" && said != why {
				s.log.Info("rotation of the root certificate waits", "step", stepName(r.State), "for", why)
			}
			said = why
			s.rotator.take(r)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-s.rotator.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func stepName(s rotation.State) string {
	if s.Step == rotation.Stable {
		return "stable"
	}
	return string(s.Step)
}

// caStatus is the answer of GET /api/v1/ca, and of POST /api/v1/ca/rotate.
func (s *server) caStatus(ctx context.Context) (*rotation.Status, error) {
	f, err := s.fleet(ctx)
	if err != nil {
		return nil, err
	}
	t := s.authority.Trust()
	out := &rotation.Status{TrustDomain: s.authority.TrustDomain(), Source: s.authority.Source(), Bundle: t.ID, Expected: f.Expected, Replicas: f.Reports}
	for _, r := range s.authority.Roots() {
		id := mtls.BundleID(r)
		out.Roots = append(out.Roots, rotation.Root{ID: id, Subject: r.Subject.String(), NotAfter: r.NotAfter, Signs: id == t.Root})
	}
	for _, x := range s.expiring(time.Now()) {
		out.Findings = append(out.Findings, x.String())
	}
	if s.rotator.driver == nil {
		return out, nil
	}
	r, err := s.rotator.driver.Store.Load(ctx)
	if err != nil {
		return nil, err
	}
	if look := s.rotator.driver.Brought; look != nil {
		if _, err := look(ctx); err != nil {
			out.Findings = append(out.Findings, "what was brought is not taken: "+err.Error())
		}
	}
	out.Rotation = r.State
	_, _, out.Waiting, err = rotation.Advance(r, f, s.rotator.driver.Life, time.Now())
	return out, err
}

func (s *server) getCA(w http.ResponseWriter, r *http.Request) {
	st, err := s.caStatus(r.Context())
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, st)
}

// postRotate begins a rotation: {"now": true} does not wait for proxies that are not
// connected, nor lets one wait that is under way.
func (s *server) postRotate(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Now bool `json:"now"`
	}
	dec := json.NewDecoder(io.LimitReader(r.Body, 1<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ask); err != nil && !errors.Is(err, io.EOF) {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if s.rotator.driver == nil {
		fail(w, http.StatusConflict, errors.New("the root was brought with --cacerts: replace it there"))
		return
	}
	rec, err := s.rotator.driver.Begin(r.Context(), ask.Now)
	switch {
	case errors.Is(err, rotation.ErrRunning), errors.Is(err, rotation.ErrConflict), errors.Is(err, rotation.ErrBrought):
		fail(w, http.StatusConflict, err)
		return
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	s.rotator.stir()
	s.log.Warn("a new root certificate was asked for", "old", rec.State.Old, "new", rec.State.New, "now", ask.Now)
	s.getCA(w, r)
}
