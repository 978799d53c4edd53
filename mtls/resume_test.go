package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestResumption(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	for i := range 3 {
		w := join(client(fa, bob), fb.Server())
		w.mustShake(t)
		if w.a.Resumed() != (i > 0) || w.b.Resumed() != (i > 0) {
			t.Errorf("connection %d: resumed %v, %v", i, w.a.Resumed(), w.b.Resumed())
		}
		if w.b.PeerID() != alice || w.a.PeerID() != bob || len(w.b.Peer().XFCC) == 0 {
			t.Errorf("connection %d: %q, %q", i, w.b.PeerID(), w.a.PeerID())
		}
		w.release()
	}
	// Another endpoint and another expectation have sessions of their own.
	elsewhere := netip.MustParseAddrPort("10.0.0.8:8080")
	sni := "outbound_.80_._.bob.default.svc.cluster.local"
	for name, s := range map[string]*Session{
		"endpoint": fa.Client(bob, nil, sni, elsewhere, []string{"seine-http/1.1", "istio"}),
		"expected": fa.Client(bob, []string{carol}, sni, where, []string{"seine-http/1.1", "istio"}),
		"SNI":      fa.Client(bob, nil, "other", where, []string{"seine-http/1.1", "istio"}),
	} {
		w := join(s, fb.Server())
		w.mustShake(t)
		if s.Resumed() {
			t.Errorf("another %s: resumed", name)
		}
		w.release()
	}
}

// TestResumedPeerOfAnotherIdentity: an address changes hands, and who lives there
// now can even open the tickets that were given out there.
func TestResumedPeerOfAnotherIdentity(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	w := join(client(fa, bob), fb.Server())
	w.mustShake(t)
	w.release()
	// The plan now says that carol lives at the address, and bob is still there.
	w = join(client(fa, carol), fb.Server())
	defer w.release()
	if err, _ := w.shake(t); !errors.Is(err, ErrUnexpectedPeer) {
		t.Errorf("expecting carol, bob answers: %v", err)
	}
	// Even with bob's ticket in carol's entry the identity is checked.
	g, err := fa.current()
	if err != nil {
		t.Fatal(err)
	}
	c1, c2 := client(fa, bob), client(fa, carol)
	defer c1.Release()
	defer c2.Release()
	stolen, _ := g.client(c1.client).ClientSessionCache.Get("")
	if stolen == nil {
		t.Fatal("no ticket kept")
	}
	g.client(c2.client).ClientSessionCache.Put("", stolen)
	w2 := join(c2, fb.Server())
	defer w2.release()
	if err, _ := w2.shake(t); !errors.Is(err, ErrUnexpectedPeer) {
		t.Errorf("resumed as carol with bob's ticket: %v", err)
	}
}

func TestRetiredRootEndsTickets(t *testing.T) {
	old, next := newTestCA(t), newTestCA(t)
	both := roots(old, next)
	setup := func(t *testing.T) (*Factory, *Factory) {
		a, b := old.source(t, alice), NewSource(SourceOptions{})
		if err := b.Set(&Identity{Certificate: next.leaf(t, nil, bob), Roots: both}); err != nil {
			t.Fatal(err)
		}
		if err := a.SetRoots(both); err != nil {
			t.Fatal(err)
		}
		fa, fb := NewFactory(a, Options{}), NewFactory(b, Options{})
		for i := range 2 {
			w := join(client(fa, bob), fb.Server())
			w.mustShake(t)
			if w.b.Resumed() != (i == 1) {
				t.Fatal("resumption does not work at all")
			}
			w.release()
		}
		return fa, fb
	}
	t.Run("at the server", func(t *testing.T) {
		fa, fb := setup(t)
		if err := fb.src.SetRoots(roots(next)); err != nil { // alice's root retires
			t.Fatal(err)
		}
		w := join(client(fa, bob), fb.Server())
		defer w.release()
		if _, err := w.shake(t); !errors.Is(err, ErrChain) || w.b.Resumed() {
			t.Errorf("with an old ticket: %v", err)
		}
	})
	t.Run("at the server, ticket keys kept by force", func(t *testing.T) {
		fa, fb := setup(t)
		kept, _ := fb.current()
		if err := fb.src.SetRoots(roots(next)); err != nil {
			t.Fatal(err)
		}
		forced := kept.server.Clone()
		forced.UnwrapSession = nil
		m := fb.src.material()
		fb.gen.Store(&generation{src: fb.src, m: m, server: forced})
		w := join(client(fa, bob), fb.Server())
		defer w.release()
		if _, err := w.shake(t); !errors.Is(err, ErrChain) {
			t.Errorf("VerifyConnection let a resumed connection in: %v", err)
		}
	})
	t.Run("at the client", func(t *testing.T) {
		fa, fb := setup(t)
		if err := fa.src.SetRoots(roots(old)); err != nil { // bob's root retires
			t.Fatal(err)
		}
		w := join(client(fa, bob), fb.Server())
		defer w.release()
		if err, _ := w.shake(t); !errors.Is(err, ErrChain) {
			t.Errorf("with an old session: %v", err)
		}
	})
}

func TestNewLeafEndsTickets(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	for i, change := range []func(){
		func() {},
		func() { fb.src.Set(ca.identity(t, bob)) },
		func() { fa.src.Set(ca.identity(t, alice)) },
	} {
		change()
		for k := range 2 {
			w := join(client(fa, bob), fb.Server())
			w.mustShake(t)
			if w.b.Resumed() != (k == 1) {
				t.Errorf("change %d, connection %d: resumed %v", i, k, w.b.Resumed())
			}
			if w.b.Peer().Hash != mustHash(t, fa) {
				t.Errorf("change %d, connection %d: an old leaf's hash", i, k)
			}
			w.release()
		}
	}
}

func mustHash(t *testing.T, f *Factory) string {
	p, err := newPeer(f.src.material().leaf, "")
	if err != nil {
		t.Fatal(err)
	}
	return p.Hash
}

func TestNoTicketOutlivesTheLeaf(t *testing.T) {
	ca := newTestCA(t)
	now := time.Now()
	short := func(id string, life time.Duration) *Factory {
		s := NewSource(SourceOptions{Now: func() time.Time { return now }})
		err := s.Set(&Identity{Roots: roots(ca), Certificate: ca.leaf(t, func(c *x509.Certificate) { c.NotAfter = now.Add(life) }, id)})
		if err != nil {
			t.Fatal(err)
		}
		return NewFactory(s, Options{})
	}
	for _, tc := range []struct {
		name         string
		lifeA, lifeB time.Duration
	}{{"the client's", time.Minute, time.Hour}, {"the server's", time.Hour, time.Minute}} {
		now = time.Now()
		fa, fb := short(alice, tc.lifeA), short(bob, tc.lifeB)
		w := join(client(fa, bob), fb.Server())
		w.mustShake(t)
		w.release()
		g, _ := fa.current()
		c := client(fa, bob)
		ticket, _ := g.client(c.client).ClientSessionCache.Get("")
		c.Release()
		label, _, err := ticket.ResumptionState()
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Minute)
		w = join(client(fa, bob), fb.Server())
		ea, eb := w.shake(t)
		if ea == nil && eb == nil {
			t.Errorf("%s leaf has expired and a connection opens", tc.name)
		}
		w.release()
		sg, _ := fb.current()
		if state, err := sg.server.UnwrapSession(label, tls.ConnectionState{}); tc.lifeB < time.Hour && (state != nil || err != nil) {
			t.Errorf("%s leaf has expired and its ticket opens: %v, %v", tc.name, state, err)
		}
	}
}

func TestPeerCacheIsBounded(t *testing.T) {
	ca := newTestCA(t)
	f := NewFactory(ca.source(t, alice), Options{Peers: 3})
	g, err := f.current()
	if err != nil {
		t.Fatal(err)
	}
	for port := range uint16(10) {
		g.client(&clientConfig{ids: []string{bob}, endpoint: netip.AddrPortFrom(where.Addr(), port)})
	}
	if len(g.peers) != 3 || g.order.Len() != 3 {
		t.Errorf("%d peers, %d in order", len(g.peers), g.order.Len())
	}
}
