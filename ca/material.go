package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/seinemesh/seine/mtls"
)

// Istio's names in cacerts; a generated root is kept under the same ones, in a
// folder as in a Secret.
const (
	FileRoot  = "root-cert.pem"  // the trust bundle
	FileCert  = "ca-cert.pem"    // what signs
	FileKey   = "ca-key.pem"     // its key
	FileChain = "cert-chain.pem" // what lies between FileCert and a root; may be absent
)

// Material is an authority as PEM: what a folder or a Secret holds of it.
type Material struct {
	Roots []byte // one or more certificates; more than one while a root is rotated
	Cert  []byte // the certificate that signs; others after it belong to the chain
	Key   []byte
	Chain []byte
}

// Root returns the root that m's certificate leads to, after checking m.
func (m *Material) Root() (*x509.Certificate, error) {
	k, err := m.parse("authority")
	if err != nil {
		return nil, err
	}
	return k.base.root, nil
}

// End returns when the first certificate on the way from what signs to its root ends,
// after checking m.
func (m *Material) End() (time.Time, error) {
	k, err := m.parse("authority")
	if err != nil {
		return time.Time{}, err
	}
	return k.base.end, nil
}

// Same says whether m and other sign and trust alike; false if one of them is broken.
func (m *Material) Same(other *Material) bool {
	k, err := m.parse("authority")
	if err != nil {
		return false
	}
	o, err := other.parse("authority")
	return err == nil && k.same(o)
}

// PEM returns certificates as PEM.
func PEM(certs ...*x509.Certificate) []byte { return appendPEM(nil, certs...) }

// ErrMaterial refuses keys and certificates that are no authority.
var ErrMaterial = errors.New("ca: not an authority")

// keys is Material, checked. Immutable.
type keys struct {
	roots  []*x509.Certificate // the bundle
	bundle []byte              // the same as PEM, in one form whatever the form it was read in
	base   issuer
	trust  Trust
	source string
}

// same says whether k and other sign and trust alike.
func (k *keys) same(other *keys) bool {
	return k.base.cert.Equal(other.base.cert) && k.base.root.Equal(other.base.root) && bytes.Equal(k.bundle, other.bundle)
}

// parse checks that m is one authority: key and certificate belong together, the
// certificate may sign, and its chain leads to one of the roots. what names m in
// errors. Whether it has expired is not looked at.
func (m *Material) parse(what string) (*keys, error) {
	roots, err := parseCerts(m.Roots, what+": "+FileRoot)
	if err != nil {
		return nil, err
	}
	for _, r := range roots {
		if !r.IsCA {
			return nil, fmt.Errorf("%w: %s: %s holds %q, which is no CA certificate", ErrMaterial, what, FileRoot, r.Subject)
		}
	}
	certs, err := parseCerts(m.Cert, what+": "+FileCert)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(m.Key, what+": "+FileKey)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	if len(bytes.TrimSpace(m.Chain)) > 0 {
		if chain, err = parseCerts(m.Chain, what+": "+FileChain); err != nil {
			return nil, err
		}
	}
	k := &keys{roots: roots, bundle: appendPEM(nil, roots...)}
	if k.base, err = newIssuer(certs[0], key, append(certs[1:], chain...), roots); err != nil {
		return nil, fmt.Errorf("ca: %s: %w", what, err)
	}
	k.trust = Trust{Bundle: k.bundle, ID: mtls.BundleID(roots...), Root: mtls.BundleID(k.base.root)}
	return k, nil
}

// Generate makes a root that signs for a trust domain from now on, for ttl
// (0: ten years). Its key is in what it returns and nowhere else.
func Generate(trustDomain string, ttl time.Duration, now time.Time) (*Material, error) {
	if ttl <= 0 {
		ttl = rootTTL
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: key of the root: %w", err)
	}
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	root := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{td.Name()}, CommonName: "Seine root CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(ttl),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLen: 1, // one intermediate
		URIs: []*url.URL{{Scheme: "spiffe", Host: td.Name()}},
	}
	cert, err := (&issuer{cert: root, key: key}).sign(root, key.Public())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("ca: key of the root: %w", err)
	}
	certPEM := appendPEM(nil, cert)
	return &Material{
		Roots: certPEM, Cert: certPEM,
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, nil
}

func parseCerts(data []byte, what string) ([]*x509.Certificate, error) {
	certs, err := mtls.ParseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("ca: %s: PEM certificates are expected: %w", what, err)
	}
	return certs, nil
}

// parseKey reads a private key that signs. Its errors show nothing of it.
func parseKey(data []byte, what string) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("ca: %s: not PEM", what)
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("ca: %s: PEM block %q is no private key", what, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", what, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("ca: %s: key type %T does not sign", what, key)
	}
	return signer, nil
}

// newIssuer checks that key belongs to cert, that cert may sign, and finds its way
// to a root.
func newIssuer(cert *x509.Certificate, key crypto.Signer, others, roots []*x509.Certificate) (issuer, error) {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return issuer{}, fmt.Errorf("%s does not belong to %s", FileKey, FileCert)
	}
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return issuer{}, fmt.Errorf("%s may not sign certificates (CA:TRUE and keyCertSign are needed)", FileCert)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	for _, c := range others {
		between.AddCert(c)
	}
	// Whether it has expired is said apart, with its own error: look from a moment
	// at which it surely held.
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return issuer{}, fmt.Errorf("%s does not lead to %s: %w", FileCert, FileRoot, err)
	}
	way := chains[0]
	i := issuer{cert: cert, key: key, end: way[0].NotAfter, chain: way[:len(way)-1], root: way[len(way)-1]}
	for _, c := range way {
		if c.NotAfter.Before(i.end) {
			i.end = c.NotAfter
		}
	}
	return i, nil
}
