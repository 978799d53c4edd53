package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/seinemesh/seine/mtls"
)

var (
	// ErrCSR refuses a certificate request; the text says what is wrong with it.
	ErrCSR = errors.New("ca: certificate request refused")
	// ErrIdentity refuses an identity that is not of this trust domain.
	ErrIdentity = errors.New("ca: identity refused")
	// ErrExpired says that the authority's own certificate is at its end.
	ErrExpired = errors.New("ca: the authority's certificate has expired: bring or generate a new root")
)

// Backdate is how far a leaf's NotBefore lies in the past, for clocks that are late.
const Backdate = time.Minute

// Options describe an Authority. The zero value of each field has a default.
type Options struct {
	// Dir is the state directory (0700): the root is loaded from Dir/ca, or made there.
	Dir string
	// Brought is a directory in Istio's cacerts layout (root-cert.pem, ca-cert.pem,
	// ca-key.pem, cert-chain.pem); if set, Dir is not used and nothing is written.
	Brought     string
	TrustDomain string
	RootTTL     time.Duration // of a generated root; 0: 10 years
	DefaultTTL  time.Duration // of leaves; 0: 24 h
	MaxTTL      time.Duration // of leaves; 0: 90 days, and never below DefaultTTL
	// Intermediate gives this replica an intermediate of its own, with a key that
	// lives in memory only; the root's key then signs nothing else.
	Intermediate    bool
	IntermediateTTL time.Duration    // 0: 30 days
	Now             func() time.Time // nil: time.Now
}

// Authority signs. It is safe for concurrent use.
type Authority struct {
	o     Options
	td    spiffeid.TrustDomain
	roots []*x509.Certificate // root-cert.pem: the bundle; more than one while a root is rotated
	base  issuer              // ca-cert.pem

	mu    sync.Mutex
	inter *issuer // the replica's own; replaced at half of its life
	half  time.Time
}

// issuer is a certificate that signs.
type issuer struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // cert first, up to but without the root
	end   time.Time           // no leaf outlives this: the earliest end on the way to the root
}

// Open loads the authority, or makes its root on the first start.
func Open(o Options) (*Authority, error) {
	if o.RootTTL <= 0 {
		o.RootTTL = 10 * 365 * 24 * time.Hour
	}
	if o.DefaultTTL <= 0 {
		o.DefaultTTL = 24 * time.Hour
	}
	if o.MaxTTL <= 0 {
		o.MaxTTL = 90 * 24 * time.Hour
	}
	o.MaxTTL = max(o.MaxTTL, o.DefaultTTL)
	if o.IntermediateTTL <= 0 {
		o.IntermediateTTL = 30 * 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	if err != nil || td.Name() != o.TrustDomain {
		return nil, fmt.Errorf("ca: trust domain %q is not valid: lower-case letters, digits, '.', '-', '_'", o.TrustDomain)
	}
	m, err := open(o)
	if err != nil {
		return nil, err
	}
	a := &Authority{o: o, td: td, roots: m.roots, base: m.issuer}
	if now := o.Now(); now.After(a.base.end) {
		return nil, fmt.Errorf("%w (ended %s)", ErrExpired, a.base.end.UTC().Format(time.RFC3339))
	}
	if o.Intermediate {
		if _, err := a.issuer(o.Now()); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// TrustDomain returns the trust domain's name.
func (a *Authority) TrustDomain() string { return a.td.Name() }

// Roots returns the trust bundle. Read only.
func (a *Authority) Roots() []*x509.Certificate { return a.roots }

// Bundle returns the trust bundle as PEM.
func (a *Authority) Bundle() []byte { return appendPEM(nil, a.roots...) }

// NotAfter returns when the authority itself ends, for a metric.
func (a *Authority) NotAfter() time.Time { return a.base.end }

// ServerID returns the control plane's own SPIFFE ID.
func (a *Authority) ServerID() string {
	return "spiffe://" + a.td.Name() + "/ns/seine-system/sa/seined"
}

// WorkloadID returns the SPIFFE ID of a service account, checked.
func (a *Authority) WorkloadID(namespace, account string) (string, error) {
	id, err := spiffeid.FromSegments(a.td, "ns", namespace, "sa", account)
	if err != nil {
		return "", fmt.Errorf("%w: namespace %.100q, service account %.100q: %w", ErrIdentity, namespace, account, err)
	}
	return id.String(), nil
}

// Issued is a signed leaf.
type Issued struct {
	ID       string
	Leaf     *x509.Certificate
	NotAfter time.Time
	// Chain is PEM as CreateCertificate answers: leaf, intermediates each, and last
	// the bundle of roots as one element.
	Chain []string
	certs []*x509.Certificate
}

// Sign issues a leaf for identity, a SPIFFE ID that the caller has attested, with
// the public key of csr (PEM). Nothing else is taken from the CSR; if it names
// anybody it must be identity alone. ttl ≤ 0 is the default; it is cut to MaxTTL and
// to the end of the authority's own chain. Errors: ErrCSR, ErrIdentity, ErrExpired.
func (a *Authority) Sign(csr []byte, identity string, ttl time.Duration, now time.Time) (*Issued, error) {
	key, err := checkCSR(csr, identity)
	if err != nil {
		return nil, err
	}
	return a.issue(key, identity, nil, ttl, now)
}

// issue signs a leaf for a public key that was checked.
func (a *Authority) issue(key crypto.PublicKey, identity string, dns []string, ttl time.Duration, now time.Time) (*Issued, error) {
	id, err := spiffeid.FromString(identity)
	if err != nil || !id.MemberOf(a.td) || id.Path() == "" {
		return nil, fmt.Errorf("%w: %.200q is no workload of trust domain %s", ErrIdentity, identity, a.td.Name())
	}
	if ttl <= 0 {
		ttl = a.o.DefaultTTL
	}
	by, err := a.issuer(now)
	if err != nil {
		return nil, err
	}
	// Certificates count whole seconds. Up, not down: of a life of seconds most of
	// one would be lost.
	end := now.Add(min(ttl, a.o.MaxTTL) + time.Second - 1).Truncate(time.Second)
	if end.After(by.end) {
		end = by.end
	}
	if !end.After(now) {
		return nil, fmt.Errorf("%w (ended %s)", ErrExpired, by.end.UTC().Format(time.RFC3339))
	}
	begin := later(now.Add(-Backdate), by.cert.NotBefore)
	template := &x509.Certificate{
		NotBefore: begin, NotAfter: end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URL()},
		DNSNames:              dns,
	}
	leaf, err := by.sign(template, key)
	if err != nil {
		return nil, err
	}
	out := &Issued{ID: identity, Leaf: leaf, NotAfter: end, certs: append([]*x509.Certificate{leaf}, by.chain...)}
	for _, c := range out.certs {
		out.Chain = append(out.Chain, string(appendPEM(nil, c)))
	}
	out.Chain = append(out.Chain, string(a.Bundle()))
	return out, nil
}

// issuer returns what signs leaves now.
func (a *Authority) issuer(now time.Time) (*issuer, error) {
	if now.After(a.base.end) {
		return nil, fmt.Errorf("%w (ended %s)", ErrExpired, a.base.end.UTC().Format(time.RFC3339))
	}
	if !a.o.Intermediate {
		return &a.base, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inter != nil && now.Before(a.half) {
		return a.inter, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: key of the intermediate: %w", err)
	}
	end := now.Add(a.o.IntermediateTTL)
	if end.After(a.base.end) {
		end = a.base.end
	}
	cert, err := a.base.sign(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{a.td.Name()}, CommonName: "Seine intermediate CA"},
		NotBefore: later(now.Add(-Backdate), a.base.cert.NotBefore), NotAfter: end,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: a.td.Name()}},
	}, key.Public())
	if err != nil {
		return nil, err
	}
	a.inter = &issuer{cert: cert, key: key, end: cert.NotAfter, chain: append([]*x509.Certificate{cert}, a.base.chain...)}
	a.half = now.Add(end.Sub(now) / 2)
	return a.inter, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sign makes a certificate with a random serial number.
func (i *issuer) sign(template *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, key, i.key)
	if err != nil {
		return nil, fmt.Errorf("ca: sign: %w", err)
	}
	return x509.ParseCertificate(der)
}

// newSerial returns a positive number of at most 20 octets with 127 bits of chance
// (RFC 5280 §4.1.2.2).
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("ca: serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// Serve returns what a mtls.Source asks for the control plane's own certificate:
// a new key each time, the SPIFFE ID ServerID and the given DNS names. With it
// mtls.Source.Run rotates seined's certificate, and ServerTLS serves with it.
func (a *Authority) Serve(ttl time.Duration, dns ...string) func(context.Context) (*mtls.Identity, error) {
	return func(context.Context) (*mtls.Identity, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("ca: own key: %w", err)
		}
		issued, err := a.issue(key.Public(), a.ServerID(), dns, ttl, a.o.Now())
		if err != nil {
			return nil, err
		}
		id := &mtls.Identity{
			Certificate: tls.Certificate{PrivateKey: key, Leaf: issued.Leaf},
			Roots:       map[string][]*x509.Certificate{a.td.Name(): a.roots},
		}
		for _, c := range issued.certs {
			id.Certificate.Certificate = append(id.Certificate.Certificate, c.Raw)
		}
		return id, nil
	}
}

func appendPEM(dst []byte, certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		// A bytes.Buffer does not fail.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return append(dst, b.Bytes()...)
}
