package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/ca/kube"
	"github.com/seinemesh/seine/mtls"
)

// dnsName is what every seined's certificate bears besides its SPIFFE ID.
const dnsName = "seined.seine-system.svc"

// identity opens the authority, and says who may have a certificate of it.
func (s *server) identity(ctx context.Context, domain string) error {
	o := &s.opt
	settings := ca.Options{Dir: o.State, Brought: o.CACerts, TrustDomain: domain, DefaultTTL: o.CertTTL}
	names := []string{dnsName, "localhost"}
	if o.Cluster != nil {
		names = append(o.Cluster.serviceNames(), "localhost")
		s.roots = &kube.Roots{Client: o.Cluster.Client, Namespace: o.Cluster.Namespace, TrustDomain: domain, Log: s.log}
		if o.CACerts == "" {
			root, err := s.firstRoot(ctx)
			if err != nil {
				return err
			}
			// Each replica signs with an intermediate of its own, so that the root's key is
			// used a few times a month and no replica's key outlives its process.
			settings.Material, settings.Source, settings.Intermediate = &root.Material, root.Source, true
		}
	}
	var err error
	if s.authority, err = ca.Open(settings); err != nil {
		return fmt.Errorf("seined: %w", err)
	}
	if o.State != "" {
		if err := os.MkdirAll(o.State, 0o700); err != nil {
			return fmt.Errorf("seined: %w", err)
		}
		if err := replace(filepath.Join(o.State, RootFile), s.authority.Bundle()); err != nil {
			return fmt.Errorf("seined: write the trust bundle: %w", err)
		}
	}
	attest, err := s.attestor()
	if err != nil {
		return err
	}
	s.source = mtls.NewSource(mtls.SourceOptions{Request: s.authority.Serve(o.CertTTL, names...), Log: s.log})
	s.issuer = &ca.Service{Authority: s.authority, Attest: attest, Log: s.log}
	s.authority.Notify(s.trustChanged)
	s.rotator = s.newRotator()
	if s.opt.Cluster == nil && s.rotator.driver != nil {
		// A rotation that was under way when the last process ended goes on.
		kept, err := s.rotator.driver.Store.Load(ctx)
		if err != nil {
			return fmt.Errorf("seined: %w", err)
		}
		if err := s.authority.Set(&kept.Material, s.opt.State); err != nil {
			return fmt.Errorf("seined: %w", err)
		}
	}
	return nil
}

// attestor knows join tokens wherever there is a secret of them, and in a cluster
// service-account tokens.
func (s *server) attestor() (func(context.Context, string) (ca.Claims, error), error) {
	o := &s.opt
	file := o.JoinSecret
	if file == "" && o.State != "" {
		file = filepath.Join(o.State, "join-secret")
	}
	var join func(context.Context, string) (ca.Claims, error)
	if file != "" {
		secret, err := ca.CreateSecret(file)
		if err != nil {
			return nil, fmt.Errorf("seined: %w", err)
		}
		join = ca.JoinTokens(secret, nil)
	}
	if o.Cluster == nil {
		return join, nil
	}
	pods := (&kube.Attestor{Client: o.Cluster.Client}).Attest
	if join == nil {
		return pods, nil
	}
	return ca.Attestors(join, pods), nil
}

// firstRoot waits for the root. The leader makes it where there is none.
func (s *server) firstRoot(ctx context.Context) (*kube.Root, error) {
	said := false
	for {
		root, err := s.roots.Load(ctx)
		if err == nil || !errors.Is(err, kube.ErrNone) {
			return root, wrapped(err)
		}
		term, changed := s.lead.current()
		if term != nil {
			if err := s.roots.Make(ctx); err != nil {
				return nil, wrapped(err)
			}
			s.log.Info("made the mesh's root certificate", "secret", s.roots.Namespace+"/"+kube.SecretGenerated)
			continue
		}
		if !said {
			said = true
			s.log.Info("waiting for the replica that leads to make the root certificate", "lease", s.opt.Cluster.leaseName())
		}
		again := time.NewTimer(time.Second)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, ctx.Err()
		}
		again.Stop()
	}
}

func wrapped(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("seined: root certificate: %w", err)
}

// trustChanged hands a new trust bundle, or a new key that signs, to whom it
// concerns. The authority calls it.
func (s *server) trustChanged() {
	roots := map[string][]*x509.Certificate{s.authority.TrustDomain(): s.authority.Roots()}
	if err := s.source.SetRoots(roots); err != nil && !errors.Is(err, mtls.ErrNoCertificate) {
		s.log.Error("the new trust bundle was not taken", "err", err)
		return
	}
	s.source.Renew()
	if s.opt.State != "" {
		if err := replace(filepath.Join(s.opt.State, RootFile), s.authority.Bundle()); err != nil {
			s.log.Error("the trust bundle's file was not written", "err", err)
		}
	}
	if s.discovery != nil {
		s.discovery.Republish()
	}
	select {
	case s.bundled <- struct{}{}:
	default:
	}
	s.log.Info("trust bundle", "roots", len(s.authority.Roots()), "bundle", mtls.BundleID(s.authority.Roots()...), "signs", mtls.BundleID(s.authority.Root()))
}

// guard runs what keeps the identity right while seined runs.
func (s *server) guard(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return unlessDone(ctx, s.source.Run(ctx)) })
	s.rotate(ctx, g)
	look := make(chan struct{}, 1)
	s.authority.Notify(func() {
		select {
		case look <- struct{}{}:
		default:
		}
	})
	g.Go(func() error {
		return s.mesh.while(ctx, "warning of what expires", func(ctx context.Context) error { return s.keepWarning(ctx, look) })
	})
	c := s.opt.Cluster
	if c == nil {
		return
	}
	if s.opt.CACerts == "" {
		g.Go(func() error { return s.roots.Watch(ctx, s.takeRoot) })
	}
	bundles := &kube.Bundles{Client: c.Client, Namespace: c.Namespace, Bundle: s.authority.Bundle, Log: s.log}
	g.Go(func() error {
		return s.lead.while(ctx, "keeping the trust bundle in namespaces", func(ctx context.Context) error { return bundles.Run(ctx, s.bundled) })
	})
}

// brought says whether the root is kept by somebody else.
func (s *server) brought() bool {
	return s.opt.CACerts != "" || strings.HasSuffix(s.authority.Source(), "/"+kube.SecretBrought)
}

// expiring is what a person must be told of the authority's certificates.
func (s *server) expiring(now time.Time) []ca.Expiring {
	mend := "run seine ca rotate"
	if s.brought() {
		mend = "it was brought: replace it in " + s.authority.Source()
	}
	return s.authority.Expiring(now, mend)
}

// takeRoot is what the watch of the Secrets calls.
func (s *server) takeRoot(root *kube.Root) {
	if err := s.authority.Set(&root.Material, root.Source); err != nil {
		s.log.Error("the certificate authority was not taken; what was taken before goes on", "source", root.Source, "err", err)
	}
	s.rotator.stir() // another one was brought, or another replica has begun to replace it
}
