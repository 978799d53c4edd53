package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"testing"
	"time"
)

// TestVouched: a chain that was verified is remembered for these roots, this use
// and as long as it is valid; nothing else follows from it.
func TestVouched(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	now := time.Now()
	src := NewSource(SourceOptions{Now: func() time.Time { return now }})
	if err := src.Set(ca.identity(t, bob)); err != nil {
		t.Fatal(err)
	}
	chainOf := func(c tls.Certificate) []*x509.Certificate {
		leaf, err := x509.ParseCertificate(c.Certificate[0]) // as a handshake has it: parsed anew
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{leaf}
	}
	known := func() int { return src.material().trust.remembered() }
	own := known() // the source's own certificate was looked at
	cert := ca.leaf(t, nil, alice)
	for range 3 {
		if v, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); err != nil || v.id.String() != alice || known() != own+1 {
			t.Fatalf("%v, %v, %d chains", v, err, known()-own)
		}
	}
	a, err := src.peer(chainOf(cert), x509.ExtKeyUsageClientAuth)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := src.peer(chainOf(cert), x509.ExtKeyUsageClientAuth); err != nil || a != b || a.ID != alice {
		t.Errorf("%v, %v", b, err)
	}

	t.Run("another leaf of the same name", func(t *testing.T) {
		if _, err := src.verify(chainOf(other.leaf(t, nil, alice)), x509.ExtKeyUsageClientAuth); !errors.Is(err, ErrChain) || known() != own+1 {
			t.Errorf("%v, %d chains", err, known()-own)
		}
	})
	t.Run("one byte of the signature", func(t *testing.T) {
		forged := chainOf(cert)
		raw := append([]byte(nil), forged[0].Raw...)
		raw[len(raw)-1] ^= 1
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Skip(err)
		}
		if _, err := src.verify([]*x509.Certificate{c}, x509.ExtKeyUsageClientAuth); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("another use", func(t *testing.T) {
		only := ca.leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, alice)
		if _, err := src.verify(chainOf(only), x509.ExtKeyUsageClientAuth); err != nil {
			t.Fatal(err)
		}
		if _, err := src.verify(chainOf(only), x509.ExtKeyUsageServerAuth); !errors.Is(err, ErrChain) {
			t.Errorf("a client's certificate served: %v", err)
		}
	})
	t.Run("who was expected is asked each time", func(t *testing.T) {
		if err := src.verifyIs(chainOf(cert), x509.ExtKeyUsageServerAuth, []string{alice}); err != nil {
			t.Fatal(err)
		}
		if err := src.verifyIs(chainOf(cert), x509.ExtKeyUsageServerAuth, []string{carol}); !errors.Is(err, ErrUnexpectedPeer) {
			t.Error(err)
		}
	})
	t.Run("an intermediate that ends before its leaf", func(t *testing.T) {
		between := &testCA{key: ca.key}
		between.cert = ca.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * time.Minute)}, ca.key.Public())
		between.cert.Subject.CommonName = "between"
		chain := append(chainOf(between.leaf(t, nil, carol)), between.cert)
		v, err := src.verify(chain, x509.ExtKeyUsageClientAuth)
		if err != nil {
			t.Fatal(err)
		}
		// The same key signs for the root as well: the path that lasts longer counts,
		// and it is one that is there.
		if v.until.After(chain[0].NotAfter) || v.from.Before(chain[0].NotBefore) {
			t.Errorf("%v to %v", v.from, v.until)
		}
	})
	t.Run("expired since", func(t *testing.T) {
		defer func(was time.Time) { now = was }(now)
		now = cert.Leaf.NotAfter
		if _, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); err != nil {
			t.Error(err)
		}
		now = now.Add(time.Second)
		if _, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); !errors.Is(err, ErrChain) {
			t.Error(err)
		}
		now = cert.Leaf.NotBefore.Add(-time.Second)
		if _, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); !errors.Is(err, ErrChain) {
			t.Errorf("before it begins: %v", err)
		}
	})
	t.Run("a bundle without its root", func(t *testing.T) {
		if _, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); err != nil {
			t.Fatal(err)
		}
		if err := src.SetRoots(roots(other)); err != nil {
			t.Fatal(err)
		}
		if known() != 0 {
			t.Errorf("%d chains are remembered under other roots", known())
		}
		if _, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); !errors.Is(err, ErrChain) {
			t.Error(err)
		}
		if err := src.SetRoots(roots(ca, other)); err != nil {
			t.Fatal(err)
		}
		if _, err := src.verify(chainOf(cert), x509.ExtKeyUsageClientAuth); err != nil {
			t.Error(err)
		}
	})
}

// TestVouchedOverConnections: what was remembered of earlier connections does not
// let a new one through after the bundle has changed, resumed or not.
func TestVouchedOverConnections(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	for range 2 {
		w := join(client(fa, bob), fb.Server())
		w.mustShake(t)
		w.release()
	}
	if n := fb.src.material().trust.remembered(); n != 2 { // its own and alice's
		t.Errorf("%d chains", n)
	}
	if err := fb.src.SetRoots(roots(other)); err != nil {
		t.Fatal(err)
	}
	w := join(client(fa, bob), fb.Server())
	defer w.release()
	if _, err := w.shake(t); !errors.Is(err, ErrChain) {
		t.Errorf("the server took a client of a retired root: %v", err)
	}
}

// TestVouchedIsBounded: however many chains there are, and what is used stays.
func TestVouchedIsBounded(t *testing.T) {
	a := &anchors{}
	now := time.Unix(1000, 0)
	key := func(i int) (f fingerprint) { binary.BigEndian.PutUint64(f[:], uint64(i)); return f }
	for i := range 3 * maxVouched {
		a.keep(key(i), &vouched{from: now, until: now.Add(time.Hour)})
		if a.find(key(0), now) == nil {
			t.Fatalf("what is used all the time was gone after %d others", i)
		}
		if n := a.remembered(); n > maxVouched {
			t.Fatalf("%d chains", n)
		}
	}
	if a.find(key(1), now) != nil {
		t.Error("the oldest is still there")
	}
	if a.find(key(0), now.Add(2*time.Hour)) != nil || a.find(key(0), now) != nil {
		t.Error("found after its end")
	}
}
