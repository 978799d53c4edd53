package mtls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = "spiffe://cluster.local/ns/default/sa/alice"
	bob   = "spiffe://cluster.local/ns/default/sa/bob"
	carol = "spiffe://cluster.local/ns/default/sa/carol"
)

var where = netip.MustParseAddrPort("10.0.0.7:8080")

// testCA signs whatever a test asks for, valid or not.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial atomic.Int64

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{key: key}
	ca.cert = ca.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
	}, key.Public())
	return ca
}

func (ca *testCA) sign(t testing.TB, template *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	parent := ca.cert
	if parent == nil {
		parent = template
	}
	template.SerialNumber = big.NewInt(serial.Add(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leaf issues a certificate for ids; edit may spoil it.
func (ca *testCA) leaf(t testing.TB, edit func(*x509.Certificate), ids ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, id := range ids {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	if edit != nil {
		edit(c)
	}
	cert := ca.sign(t, c, key.Public())
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func roots(cas ...*testCA) map[string][]*x509.Certificate {
	m := map[string][]*x509.Certificate{}
	for _, ca := range cas {
		m["cluster.local"] = append(m["cluster.local"], ca.cert)
	}
	return m
}

func (ca *testCA) identity(t testing.TB, id string) *Identity {
	return &Identity{Certificate: ca.leaf(t, nil, id), Roots: roots(ca)}
}

func (ca *testCA) source(t testing.TB, id string) *Source {
	t.Helper()
	s := NewSource(SourceOptions{})
	if err := s.Set(ca.identity(t, id)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (ca *testCA) factory(t testing.TB, id string) *Factory {
	return NewFactory(ca.source(t, id), Options{})
}

// wire joins two sessions and plays both loops.
type wire struct {
	a, b  *Session
	chunk int    // feed at most so many bytes at once; 0: all
	step  func() // called at each step of a handshake
}

func join(a, b *Session) *wire { return &wire{a: a, b: b} }

// wake is for sessions that read files first: none of a wire's.
func (w *wire) wake(*Session) { panic("woken") }

// move carries what from has to send to to.
func (w *wire) move(t testing.TB, from, to *Session) bool {
	t.Helper()
	moved := false
	for out := from.Outgoing(); len(out) > 0; out = from.Outgoing() {
		n := len(out)
		if w.chunk > 0 {
			n = min(n, w.chunk)
		}
		if to.state != Failed {
			if err := to.Feed(out[:n]); err != nil && to.state != Failed {
				t.Logf("feed: %v", err)
			}
			to.Hold() // the next Sent reuses that memory
		}
		from.Sent(n)
		moved = true
	}
	return moved
}

// shake runs both handshakes to their ends.
func (w *wire) shake(t testing.TB) (errA, errB error) {
	t.Helper()
	w.a.Handshake(w.wake)
	w.b.Handshake(w.wake)
	for {
		if w.step != nil {
			w.step()
		}
		sa, ea := w.a.Progress()
		sb, eb := w.b.Progress()
		moved := w.move(t, w.a, w.b)
		moved = w.move(t, w.b, w.a) || moved
		if sa != Handshaking && sb != Handshaking && !moved {
			return ea, eb
		}
		if sa == Failed && w.b.client == nil && !w.b.started {
			w.b.Abort(ea)
		}
		if !moved && (sa == Handshaking || sb == Handshaking) {
			t.Fatalf("stuck: %s, %s", sa, sb)
		}
	}
}

// mustShake is shake between sessions that trust each other; tickets are read.
func (w *wire) mustShake(t testing.TB) {
	t.Helper()
	if ea, eb := w.shake(t); ea != nil || eb != nil {
		t.Fatalf("handshake: %v, %v", ea, eb)
	}
	var p [64]byte
	if n, err := w.a.Read(p[:]); err != ErrEmpty {
		t.Fatalf("client's first read: %d, %v", n, err)
	}
	if n, err := w.b.Read(p[:]); err != ErrEmpty {
		t.Fatalf("server's first read: %d, %v", n, err)
	}
}

func (w *wire) release() { w.a.Release(); w.b.Release() }

func client(f *Factory, id string) *Session {
	return f.Client(id, nil, "outbound_.80_._.bob.default.svc.cluster.local", where, []string{"seine-http/1.1", "istio"})
}
