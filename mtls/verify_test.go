package mtls

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestIdentityVerification(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	type leaf = func(t *testing.T) tls.Certificate
	of := func(c *testCA, edit func(*x509.Certificate), ids ...string) leaf {
		return func(t *testing.T) tls.Certificate { return c.leaf(t, edit, ids...) }
	}
	for _, tc := range []struct {
		name string
		leaf leaf
		want error
	}{
		{"valid", of(ca, nil, bob), nil},
		{"another identity", of(ca, nil, carol), ErrUnexpectedPeer},
		{"wrong trust domain", of(ca, nil, "spiffe://elsewhere/ns/default/sa/bob"), ErrTrustDomain},
		{"unknown root", of(other, nil, bob), ErrChain},
		{"expired", of(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, bob), ErrChain},
		{"not yet valid", of(ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, bob), ErrChain},
		{"no URI SAN", of(ca, func(c *x509.Certificate) { c.DNSNames = []string{"bob"} }), ErrIdentity},
		{"two URI SANs", of(ca, nil, bob, carol), ErrIdentity},
		{"not SPIFFE", of(ca, nil, "https://cluster.local/ns/default/sa/bob"), ErrIdentity},
		{"upper-case trust domain", of(ca, nil, "spiffe://Cluster.local/ns/default/sa/bob"), ErrIdentity},
		{"no path", of(ca, nil, "spiffe://cluster.local"), ErrIdentity},
		{"dots in path", of(ca, nil, "spiffe://cluster.local/ns/../sa/bob"), ErrIdentity},
		{"query", of(ca, nil, bob+"?a=b"), ErrIdentity},
		{"port", of(ca, nil, "spiffe://cluster.local:80/ns/default/sa/bob"), ErrIdentity},
		{"an authority", of(ca, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, bob), ErrIdentity},
		{"may sign certificates", of(ca, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, bob), ErrIdentity},
		{"no digitalSignature", of(ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, bob), ErrIdentity},
		{"no usage for TLS", of(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }, bob), ErrChain},
		{"signed by a leaf", func(t *testing.T) tls.Certificate {
			thief := ca.leaf(t, nil, carol)
			fake := &testCA{cert: thief.Leaf, key: thief.PrivateKey.(*ecdsa.PrivateKey)}
			forged := fake.leaf(t, nil, bob)
			forged.Certificate = append(forged.Certificate, thief.Leaf.Raw)
			return forged
		}, ErrChain},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cert := tc.leaf(t)
			w := join(client(fa, bob), spoilt(t, ca, cert).Server())
			defer w.release()
			if errA, _ := w.shake(t); !errors.Is(errA, tc.want) || (errA == nil) != (tc.want == nil) {
				t.Errorf("the client says %v, want %v", errA, tc.want)
			}
			if tc.want == ErrUnexpectedPeer {
				return // a server takes any workload of the mesh
			}
			w2 := join(client(spoilt(t, ca, cert), bob), fb.Server())
			defer w2.release()
			_, errB := w2.shake(t)
			if !errors.Is(errB, tc.want) || (errB == nil) != (tc.want == nil) {
				t.Errorf("the server says %v, want %v", errB, tc.want)
			}
			if tc.want != nil {
				var p [10]byte
				if _, err := w2.a.Read(p[:]); err == nil || err == ErrEmpty {
					t.Errorf("the refused client reads %v", err)
				}
			}
		})
	}
}

func TestAlternativeNames(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	w := join(fa.Client(carol, []string{bob}, "", where, nil), fb.Server())
	defer w.release()
	w.mustShake(t)
	if w.a.PeerID() != bob || w.a.ALPN() != "" {
		t.Errorf("%q, %q", w.a.PeerID(), w.a.ALPN())
	}
	none := join(fa.Client("", nil, "", where, nil), fb.Server())
	defer none.release()
	if err, _ := none.shake(t); !errors.Is(err, ErrUnexpectedPeer) {
		t.Errorf("nobody expected: %v", err)
	}
}

func TestALPNMustAgree(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	for _, tc := range []struct{ offer, want string }{
		{"istio istio-http/1.1 seine-tcp", "seine-tcp"},
		{"istio istio-http/1.1", "istio-http/1.1"},
		{"istio-peer-exchange istio", "istio"},
		{"h2", "fail"},
	} {
		w := join(fa.Client(bob, nil, "", where, strings.Fields(tc.offer)), fb.Server())
		_, err := w.shake(t)
		if got := w.b.ALPN(); got != tc.want && tc.want != "fail" || (err != nil) != (tc.want == "fail") {
			t.Errorf("%s: %q, %v", tc.offer, got, err)
		}
		w.release()
	}
}

func TestPeerAndXFCC(t *testing.T) {
	ca := newTestCA(t)
	cert := ca.leaf(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "a\"b\\c\r\nx-admin: yes;é"}
	}, alice)
	p, err := newPeer(cert.Leaf, bob)
	if err != nil {
		t.Fatal(err)
	}
	if p.Namespace != "default" || p.ServiceAccount != "alice" || p.Principal != "cluster.local/ns/default/sa/alice" || p.TrustDomain != "cluster.local" {
		t.Errorf("%+v", p)
	}
	x := string(p.XFCC)
	if !strings.HasPrefix(x, "By="+bob+";Hash="+p.Hash+`;Subject="`) || !strings.HasSuffix(x, `";URI=`+alice) || len(p.Hash) != 64 {
		t.Error(x)
	}
	for i := range x {
		if x[i] < 0x20 || x[i] > 0x7e {
			t.Errorf("byte %#x in %q", x[i], x)
		}
	}
	// Inside the quotes each quote is escaped: nobody leaves the Subject.
	inner := strings.TrimSuffix(x[strings.Index(x, `Subject="`)+9:], `";URI=`+alice)
	for i := 0; i < len(inner); i++ {
		if inner[i] == '\\' {
			i++
		} else if inner[i] == '"' {
			t.Errorf("an open quote in %q", inner)
		}
	}
	plain, _ := newPeer(ca.leaf(t, nil, alice).Leaf, bob)
	if !strings.Contains(string(plain.XFCC), `;Subject="";URI=`) {
		t.Errorf("%s", plain.XFCC)
	}
}

func TestSourceRefuses(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	good := ca.identity(t, alice)
	for name, id := range map[string]*Identity{
		"nil":             nil,
		"empty":           {},
		"no roots":        {Certificate: good.Certificate},
		"other root":      {Certificate: good.Certificate, Roots: roots(other)},
		"foreign key":     {Certificate: tls.Certificate{Certificate: good.Certificate.Certificate, PrivateKey: other.key}, Roots: roots(ca)},
		"no key":          {Certificate: tls.Certificate{Certificate: good.Certificate.Certificate}, Roots: roots(ca)},
		"expired":         {Certificate: ca.leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-1) }, alice), Roots: roots(ca)},
		"bad trust name":  {Certificate: good.Certificate, Roots: map[string][]*x509.Certificate{"Not Valid": {ca.cert}}},
		"empty root list": {Certificate: good.Certificate, Roots: map[string][]*x509.Certificate{"cluster.local": {}}},
	} {
		s := ca.source(t, alice)
		before := s.Current()
		if err := s.Set(id); err == nil {
			t.Errorf("%s: taken", name)
		}
		if s.Current() != before {
			t.Errorf("%s: the certificate before is gone", name)
		}
	}
	s := NewSource(SourceOptions{})
	if s.Current() != nil || s.Roots() != nil || s.Status().ID != "" {
		t.Error("an empty source has something")
	}
	if err := s.SetRoots(roots(ca)); !errors.Is(err, ErrNoCertificate) {
		t.Error(err)
	}
	select {
	case <-s.Ready():
		t.Error("ready without a certificate")
	default:
	}
}

// spoilt returns a factory with a certificate that a Source would refuse.
func spoilt(t *testing.T, ca *testCA, cert tls.Certificate) *Factory {
	src := ca.source(t, bob)
	m := *src.material()
	m.cert = &cert
	src.cur.Store(&m)
	return NewFactory(src, Options{})
}
