package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seinemesh/seine/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const alice = "spiffe://cluster.local/ns/default/sa/alice"

func openTest(t testing.TB, edit func(*Options)) *Authority {
	t.Helper()
	o := Options{Dir: filepath.Join(t.TempDir(), "state"), TrustDomain: "cluster.local"}
	if edit != nil {
		edit(&o)
	}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csrFor(t testing.TB, key crypto.Signer, edit func(*x509.CertificateRequest)) []byte {
	t.Helper()
	r := &x509.CertificateRequest{}
	if edit != nil {
		edit(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func uris(t testing.TB, ids ...string) (out []*url.URL) {
	for _, id := range ids {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func TestSign(t *testing.T) {
	now := time.Now()
	for _, inter := range []bool{false, true} {
		a := openTest(t, func(o *Options) { o.Intermediate = inter })
		csr := csrFor(t, ecKey(t, elliptic.P256()), func(r *x509.CertificateRequest) {
			r.Subject = pkix.Name{CommonName: "root"}
			r.URIs = uris(t, alice)
		})
		got, err := a.Sign(csr, alice, "default/alice-1", time.Hour, now)
		if w, err := mtls.Workload(got.Leaf); err != nil || w != "default/alice-1" {
			t.Errorf("the leaf is for workload %q, %v", w, err)
		}
		if err != nil {
			t.Fatal(err)
		}
		leaf := got.Leaf
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != alice || len(leaf.DNSNames) != 0 || leaf.IsCA ||
			leaf.Subject.String() != "" || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("leaf: %+v", leaf)
		}
		if leaf.NotBefore.After(now.Add(-Backdate+time.Second)) || leaf.NotAfter.Before(now.Add(time.Hour)) || leaf.NotAfter.After(now.Add(time.Hour+time.Second)) {
			t.Errorf("from %v to %v at %v", leaf.NotBefore, leaf.NotAfter, now)
		}
		want := 2
		if inter {
			want = 3
		}
		if len(got.Chain) != want || got.Chain[want-1] != string(a.Bundle()) {
			t.Errorf("%d elements in the chain, %d expected", len(got.Chain), want)
		}
		pool, between := x509.NewCertPool(), x509.NewCertPool()
		pool.AppendCertsFromPEM(a.Bundle())
		if inter {
			between.AppendCertsFromPEM([]byte(got.Chain[1]))
		}
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestSignRefuses(t *testing.T) {
	a := openTest(t, nil)
	good := ecKey(t, elliptic.P256())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	tampered := csrFor(t, good, nil)
	block, _ := pem.Decode(tampered)
	block.Bytes[len(block.Bytes)-1] ^= 1
	tampered = pem.EncodeToMemory(block)
	for _, tc := range []struct {
		name string
		csr  []byte
		id   string
		want error
	}{
		{"P-256", csrFor(t, good, nil), alice, nil},
		{"P-384", csrFor(t, ecKey(t, elliptic.P384()), nil), alice, nil},
		{"RSA 2048", csrFor(t, strong, nil), alice, nil},
		{"ignored wishes", csrFor(t, good, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}} // CA:TRUE
		}), alice, nil},
		{"P-224", csrFor(t, ecKey(t, elliptic.P224()), nil), alice, ErrCSR},
		{"P-521", csrFor(t, ecKey(t, elliptic.P521()), nil), alice, ErrCSR},
		{"RSA 1024", csrFor(t, weak, nil), alice, ErrCSR},
		{"Ed25519", csrFor(t, ed, nil), alice, ErrCSR},
		{"signature", tampered, alice, ErrCSR},
		{"another SPIFFE ID", csrFor(t, good, func(r *x509.CertificateRequest) {
			r.URIs = uris(t, "spiffe://cluster.local/ns/default/sa/bob")
		}), alice, ErrCSR},
		{"two SPIFFE IDs", csrFor(t, good, func(r *x509.CertificateRequest) { r.URIs = uris(t, alice, alice) }), alice, ErrCSR},
		{"DNS name", csrFor(t, good, func(r *x509.CertificateRequest) { r.DNSNames = []string{"seined.seine-system.svc"} }), alice, ErrCSR},
		{"IP address", csrFor(t, good, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{1, 2, 3, 4}} }), alice, ErrCSR},
		{"e-mail", csrFor(t, good, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), alice, ErrCSR},
		{"nothing", nil, alice, ErrCSR},
		{"a certificate", a.Bundle(), alice, ErrCSR},
		{"two blocks", append(csrFor(t, good, nil), csrFor(t, good, nil)...), alice, ErrCSR},
		{"enormous", append(csrFor(t, good, nil), make([]byte, maxCSR)...), alice, ErrCSR},
		{"foreign trust domain", csrFor(t, good, nil), "spiffe://elsewhere/ns/default/sa/alice", ErrIdentity},
		{"no path", csrFor(t, good, nil), "spiffe://cluster.local", ErrIdentity},
		{"no SPIFFE ID", csrFor(t, good, nil), "alice", ErrIdentity},
	} {
		got, err := a.Sign(tc.csr, tc.id, "default/alice-1", time.Hour, time.Now())
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if err == nil && got.Leaf.IsCA {
			t.Errorf("%s: the leaf is an authority", tc.name)
		}
	}
}

func TestLifeIsBounded(t *testing.T) {
	now := time.Now()
	a := openTest(t, func(o *Options) { o.RootTTL = 2 * time.Hour; o.MaxTTL = time.Hour; o.DefaultTTL = time.Minute })
	csr := csrFor(t, ecKey(t, elliptic.P256()), nil)
	for _, tc := range []struct {
		ttl  time.Duration
		at   time.Time
		want time.Time
	}{
		{0, now, now.Add(time.Minute)},
		{3 * time.Second, now, now.Add(3 * time.Second)},
		{time.Millisecond, now, now.Add(time.Second)},
		{100 * time.Hour, now, now.Add(time.Hour)},
		{time.Hour, now.Add(90 * time.Minute), a.NotAfter()},
	} {
		got, err := a.Sign(csr, alice, "default/alice-1", tc.ttl, tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if d := got.NotAfter.Sub(tc.want).Abs(); d > time.Second || got.NotAfter.After(a.NotAfter()) {
			t.Errorf("ttl %v: %v, want %v", tc.ttl, got.NotAfter, tc.want)
		}
	}
	if _, err := a.Sign(csr, alice, "default/alice-1", time.Hour, now.Add(3*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("after the root's end: %v", err)
	}
}

func TestIntermediateIsReplaced(t *testing.T) {
	now := time.Now()
	a := openTest(t, func(o *Options) { o.Intermediate = true; o.IntermediateTTL = 10 * time.Hour })
	csr := csrFor(t, ecKey(t, elliptic.P256()), nil)
	issue := func(at time.Time) string {
		got, err := a.Sign(csr, alice, "default/alice-1", time.Hour, at)
		if err != nil {
			t.Fatal(err)
		}
		return got.Chain[1]
	}
	first := issue(now)
	if issue(now.Add(4*time.Hour)) != first {
		t.Error("replaced before half of its life")
	}
	if issue(now.Add(6*time.Hour)) == first {
		t.Error("not replaced")
	}
}

func TestRootPersists(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	o := Options{Dir: dir, TrustDomain: "cluster.local"}
	bundles := make([]string, 8)
	var wg sync.WaitGroup
	for i := range bundles { // several at once: one root
		wg.Go(func() {
			a, err := Open(o)
			if err != nil {
				t.Error(err)
				return
			}
			bundles[i] = string(a.Bundle())
		})
	}
	wg.Wait()
	for _, b := range bundles {
		if b != bundles[0] || b == "" {
			t.Fatal("not one root")
		}
	}
	for path, want := range map[string]os.FileMode{".": 0o700, "ca": 0o700, "ca/ca-key.pem": 0o600, "ca/root-cert.pem": 0o600} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".ca-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	key := filepath.Join(dir, "ca", "ca-key.pem")
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.Is(err, ErrPermissions) {
		t.Errorf("a key that others may read: %v", err)
	}
	os.Chmod(key, 0o600)
	os.Chmod(dir, 0o755)
	if _, err := Open(o); !errors.Is(err, ErrPermissions) {
		t.Errorf("a directory that others may enter: %v", err)
	}
	os.Chmod(dir, 0o700)
	// A key that is not the certificate's.
	other := openTest(t, nil)
	data, _ := os.ReadFile(filepath.Join(other.o.Dir, "ca", "ca-key.pem"))
	os.WriteFile(key, data, 0o600)
	if _, err := Open(o); err == nil {
		t.Error("a foreign key was taken")
	}
	if _, err := Open(Options{Dir: dir, TrustDomain: "Not Valid"}); err == nil {
		t.Error("an invalid trust domain was taken")
	}
}

// TestBroughtAuthority loads Istio's cacerts: an intermediate under a root whose key
// is elsewhere, and a bundle of two roots.
func TestBroughtAuthority(t *testing.T) {
	root, second := openTest(t, nil), openTest(t, nil)
	key := ecKey(t, elliptic.P384())
	cert, err := root.cur.Load().base.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "brought"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalECPrivateKey(key)
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(FileCert, appendPEM(nil, cert))
	write(FileChain, appendPEM(nil, cert))
	write(FileRoot, append(root.Bundle(), second.Bundle()...))
	write(FileKey, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	a, err := Open(Options{Brought: dir, TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Sign(csrFor(t, ecKey(t, elliptic.P256()), nil), alice, "default/alice-1", 24*time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Chain) != 3 || len(a.Roots()) != 2 || got.NotAfter.After(cert.NotAfter) {
		t.Errorf("%d elements, %d roots, until %v", len(got.Chain), len(a.Roots()), got.NotAfter)
	}
	write(FileRoot, second.Bundle())
	if _, err := Open(Options{Brought: dir, TrustDomain: "cluster.local"}); err == nil {
		t.Error("an authority that leads to no root was taken")
	}
}

func TestServeOwnCertificate(t *testing.T) {
	a := openTest(t, nil)
	id, err := a.Serve(time.Hour, "seined.seine-system.svc")(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	leaf := id.Certificate.Leaf
	if leaf.URIs[0].String() != a.ServerID() || leaf.DNSNames[0] != "seined.seine-system.svc" {
		t.Errorf("%v %v", leaf.URIs, leaf.DNSNames)
	}
	var _ tls.Certificate = id.Certificate
}

func TestToken(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	now := time.Unix(1_800_000_000, 0)
	want := Claims{"default", "alice", "alice-1", now.Add(time.Minute)}
	token, err := Mint(secret, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(secret, token, now)
	if err != nil || got.Namespace != want.Namespace || got.ServiceAccount != want.ServiceAccount || got.Workload != want.Workload || !got.Expires.Equal(want.Expires) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := Verify(secret, token, now.Add(time.Minute)); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("expired: %v", err)
	}
	if _, err := Verify([]byte(strings.Repeat("x", 32)), token, now); !errors.Is(err, ErrToken) {
		t.Errorf("another secret: %v", err)
	}
	if _, err := Verify(nil, token, now); !errors.Is(err, ErrSecret) {
		t.Errorf("no secret: %v", err)
	}
	for i := range token { // every change is found
		b := []byte(token)
		b[i] ^= 1
		if _, err := Verify(secret, string(b), now); !errors.Is(err, ErrToken) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	sign := func(claims string) string {
		s := tokenPrefix + tokenEncoding.EncodeToString([]byte(claims))
		return s + "." + tokenEncoding.EncodeToString(tokenMAC(secret, s))
	}
	for name, bad := range map[string]string{
		"empty": "", "prefix": "seine1.", "dots": "seine1...", "long": "seine1." + strings.Repeat("a", maxToken),
		"audience":      sign(`{"aud":"other","ns":"a","sa":"b","wl":"c","exp":1900000000}`),
		"unknown field": sign(`{"aud":"seined","ns":"a","sa":"b","wl":"c","exp":1900000000,"x":1}`),
		"trailing":      sign(`{"aud":"seined","ns":"a","sa":"b","wl":"c","exp":1900000000}{}`),
		"path in name":  sign(`{"aud":"seined","ns":"a/sa/x","sa":"b","wl":"c","exp":1900000000}`),
		"no account":    sign(`{"aud":"seined","ns":"a","wl":"c","exp":1900000000}`),
		"dots in name":  sign(`{"aud":"seined","ns":"a","sa":"..","wl":"c","exp":1900000000}`),
	} {
		if _, err := Verify(secret, bad, now); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []Claims{{"", "a", "b", now}, {"A", "a", "b", now}, {"a", "-a", "b", now}, {"a", "a.", "b", now}, {"a", "a-.b", "b", now}, {"a", "a", "b/c", now}, {"a.b", "a", "b", now}} {
		if _, err := Mint(secret, c); !errors.Is(err, ErrToken) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	secret := []byte(strings.Repeat("s", 32))
	good, err := Mint(secret, Claims{"default", "alice", "alice-1", time.Unix(1_800_000_000, 0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, `{"aud":"seined","ns":"a","sa":"b","wl":"c","exp":1}`)
	f.Add("seine1.", "")
	f.Fuzz(func(t *testing.T, token, claims string) {
		if _, err := Verify(secret, token, time.Unix(0, 0)); err == nil && token != good {
			t.Fatalf("forged: %q", token)
		}
		c, err := decodeClaims(tokenEncoding.EncodeToString([]byte(claims)))
		if err != nil {
			return
		}
		if !label(c.Namespace, 63, false) || strings.ContainsAny(c.Namespace+c.ServiceAccount+c.Workload, "/\x00\n ") {
			t.Fatalf("%+v", c)
		}
	})
}

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			s, err := CreateSecret(path)
			if err != nil {
				t.Error(err)
			}
			got[i] = string(s)
		})
	}
	wg.Wait()
	for _, s := range got {
		if s != got[0] || len(s) != 64 {
			t.Fatal("not one secret")
		}
	}
	os.Chmod(path, 0o604)
	if _, err := LoadSecret(path); !errors.Is(err, ErrPermissions) {
		t.Error(err)
	}
	os.WriteFile(path, []byte("short\n"), 0o600)
	os.Chmod(path, 0o600)
	if _, err := LoadSecret(path); !errors.Is(err, ErrSecret) {
		t.Error(err)
	}
}

// TestSetSwapsKeysAndBundle: what is signed after Set leads to the new root, the
// intermediate is new, a broken authority changes nothing.
func TestSetSwapsKeysAndBundle(t *testing.T) {
	a := openTest(t, func(o *Options) { o.Intermediate = true })
	changed := 0
	a.Notify(func() { changed++ })
	old := a.Root()
	next, err := Generate("cluster.local", 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	broken := *next
	broken.Key = nil
	if err := a.Set(&broken, "Secret seine-ca"); err == nil || !a.Root().Equal(old) || !strings.Contains(err.Error(), "Secret seine-ca") {
		t.Errorf("broken: %v", err)
	}
	inter := a.inter
	both := *next
	data, err := os.ReadFile(filepath.Join(a.o.Dir, "ca", FileCert))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := os.ReadFile(filepath.Join(a.o.Dir, "ca", FileKey))
	both.Cert, both.Key, both.Roots = data, key, append(append([]byte(nil), data...), next.Roots...)
	if err := a.Set(&both, "both"); err != nil {
		t.Fatal(err)
	}
	if len(a.Roots()) != 2 || !a.Root().Equal(old) || a.inter != inter {
		t.Error("another root in the bundle changed what signs")
	}
	if err := a.Set(next, "next"); err != nil {
		t.Fatal(err)
	}
	got, err := a.Sign(csrFor(t, ecKey(t, elliptic.P256()), nil), alice, "default/alice-1", time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	pool.AppendCertsFromPEM(next.Roots)
	between.AddCert(got.certs[1])
	if _, err := got.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if changed != 2 || a.Root().Equal(old) || len(a.Roots()) != 1 || a.inter == inter {
		t.Errorf("%d changes, %d roots", changed, len(a.Roots()))
	}
}

// TestNoIntermediateWhereItIsForbidden: under a path length of 0 an intermediate
// would be believed by nobody.
func TestNoIntermediateWhereItIsForbidden(t *testing.T) {
	root := openTest(t, nil)
	for _, tc := range []struct {
		name string
		edit func(*x509.Certificate)
		want int // elements of the answer
	}{
		{"forbidden", func(c *x509.Certificate) { c.MaxPathLenZero = true }, 3},
		{"the root allows one, which it is", func(*x509.Certificate) {}, 3},
	} {
		key := ecKey(t, elliptic.P256())
		c := &x509.Certificate{Subject: pkix.Name{CommonName: "brought"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: -1}
		tc.edit(c)
		if c.MaxPathLenZero {
			c.MaxPathLen = 0
		}
		cert, err := root.cur.Load().base.sign(c, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		der, _ := x509.MarshalPKCS8PrivateKey(key)
		m := &Material{Roots: root.Bundle(), Cert: appendPEM(nil, cert), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
		a, err := Open(Options{Material: m, Source: tc.name, TrustDomain: "cluster.local", Intermediate: true})
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Sign(csrFor(t, ecKey(t, elliptic.P256()), nil), alice, "default/alice-1", time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Chain) != tc.want {
			t.Errorf("%s: %d elements", tc.name, len(got.Chain))
		}
		pool, between := x509.NewCertPool(), x509.NewCertPool()
		pool.AppendCertsFromPEM(m.Roots)
		for _, c := range got.certs[1:] {
			between.AddCert(c)
		}
		if _, err := got.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
