package mtls

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// revokes makes a list of ca; edit may spoil it.
func (ca *testCA) revokes(t testing.TB, edit func(*x509.RevocationList), serials ...*big.Int) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(serial.Add(1)), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now().Add(-time.Minute)})
	}
	if edit != nil {
		edit(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// newSigner is an authority that may sign lists as well; parent nil: a root.
func newSigner(t testing.TB, name string, parent *testCA) *testCA {
	ca := newTestCA(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, SubjectKeyId: []byte(name), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
	}
	if parent == nil {
		parent = &testCA{key: ca.key}
	}
	ca.cert = parent.sign(t, template, ca.key.Public())
	return ca
}

func TestRevoked(t *testing.T) {
	root := newSigner(t, "root", nil)
	between := newSigner(t, "between", root)
	stranger := newSigner(t, "between", root) // the same name, another key
	leaf := between.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"api.example.com"} })
	leaf.Certificate = append(leaf.Certificate, between.cert.Raw)
	later := func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(time.Minute) }
	old := func(l *x509.RevocationList) { l.NextUpdate = time.Now().Add(-time.Minute) }
	part := func(l *x509.RevocationList) { // issuingDistributionPoint, RFC 5280 §5.2.5
		l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}
	}
	good, both := root.revokes(t, nil), func(b []byte) []byte { return append(root.revokes(t, nil), b...) }
	block, _ := pem.Decode(good)
	other := big.NewInt(1 << 40)
	for name, c := range map[string]struct {
		list []byte
		want error
	}{
		"nothing of it":                  {both(between.revokes(t, nil, other)), nil},
		"its serial number":              {both(between.revokes(t, nil, other, leaf.Leaf.SerialNumber)), ErrRevoked},
		"the intermediate's":             {append(between.revokes(t, nil), root.revokes(t, nil, between.cert.SerialNumber)...), ErrRevoked},
		"its serial number, by another":  {append(between.revokes(t, nil), root.revokes(t, nil, leaf.Leaf.SerialNumber)...), nil},
		"ended":                          {both(between.revokes(t, old)), ErrRevocationList},
		"ended, and it is in it":         {both(between.revokes(t, old, leaf.Leaf.SerialNumber)), ErrRevoked},
		"an ended one beside a new one":  {both(append(between.revokes(t, old), between.revokes(t, nil)...)), nil},
		"not yet":                        {both(between.revokes(t, later)), ErrRevocationList},
		"none of the leaf's issuer":      {good, ErrRevocationList},
		"none of the root":               {between.revokes(t, nil), ErrRevocationList},
		"signed by somebody of its name": {both(stranger.revokes(t, nil)), ErrRevocationList},
		"a part of a list":               {both(between.revokes(t, part)), ErrRevocationList},
		"DER, of the root alone":         {block.Bytes, ErrRevocationList},
		"garbage":                        {[]byte("garbage"), ErrRevocationList},
		"garbage behind":                 {append(both(between.revokes(t, nil)), "garbage"...), ErrRevocationList},
		"a certificate":                  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}), ErrRevocationList},
		"nothing":                        {nil, ErrRevocationList},
	} {
		for _, names := range []string{"", "x api.example.com"} {
			t.Run(name+" "+names, func(t *testing.T) {
				dir := t.TempDir()
				write := func(name string, b []byte) string {
					name = filepath.Join(dir, name)
					if err := os.WriteFile(name, b, 0o600); err != nil {
						t.Fatal(err)
					}
					return name
				}
				o := Origin{Begin: true, ServerName: "api.example.com", Names: names, CRL: write("crl", c.list),
					CA: write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}))}
				if err := dialOrigin(t, o, leaf); !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("%v, want %v", err, c.want)
				}
				if c.want != nil {
					return
				}
				o.Unverified = true
				if err := dialOrigin(t, o, leaf); !errors.Is(err, ErrRevocationList) {
					t.Errorf("a list beside insecureSkipVerify: %v", err)
				}
			})
		}
	}
}

// TestRevokedOfASecret: the list of a Secret counts where there is one.
func TestRevokedOfASecret(t *testing.T) {
	root := newSigner(t, "root", nil)
	leaf := root.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"api.example.com"} })
	dir := t.TempDir()
	for name, b := range map[string][]byte{"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}), "ca.crl": root.revokes(t, nil, leaf.Leaf.SerialNumber)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Origin{Begin: true, ServerName: "api.example.com", Credential: dir}
	if err := dialOrigin(t, o, leaf); !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crl")); err != nil {
		t.Fatal(err)
	}
	if err := dialOrigin(t, o, leaf); err != nil {
		t.Error(err)
	}
}

// dialOrigin says what becomes of a handshake with a server of that certificate,
// and of a second one that would resume it.
func dialOrigin(t *testing.T, o Origin, cert tls.Certificate) error {
	t.Helper()
	var kept origins
	c := &clientConfig{origin: &o, endpoint: netip.MustParseAddrPort("192.0.2.1:443")}
	for range 2 {
		config, err := kept.config(c, time.Now())
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0") // a net.Pipe blocks who sends an alert
		if err != nil {
			t.Fatal(err)
		}
		here, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		there, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer there.Close()
			s := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{cert}})
			_ = s.Handshake()
			_, _ = s.Write([]byte("x"))
			_, _ = io.Copy(io.Discard, s)
		}()
		conn := tls.Client(here, config)
		err = conn.Handshake()
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // and the ticket before it
		}
		_ = here.Close()
		_ = l.Close()
		<-done
		if err != nil {
			return err
		}
	}
	return nil
}
