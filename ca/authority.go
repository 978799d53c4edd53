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
	"sync/atomic"
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
	Brought string
	// Material, if set, is the authority itself (a Kubernetes Secret's), and neither
	// folder is used; Source names it in errors.
	Material *Material
	Source   string

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

// rootTTL is the life of a generated root.
const rootTTL = 10 * 365 * 24 * time.Hour

// Authority signs. It is safe for concurrent use. Its keys may be replaced while
// it does (Set); what one certificate is made of is always of one moment.
type Authority struct {
	o   Options
	td  spiffeid.TrustDomain
	cur atomic.Pointer[keys]

	mu     sync.Mutex // guards all that follows
	inter  *issuer    // the replica's own; replaced at half of its life, and with the keys
	half   time.Time
	notify []func()
}

// issuer is a certificate that signs.
type issuer struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []*x509.Certificate // cert first, up to but without the root
	root  *x509.Certificate   // where the chain leads
	end   time.Time           // no leaf outlives this: the earliest end on the way to the root
}

// Open loads the authority, or makes its root on the first start.
func Open(o Options) (*Authority, error) {
	if o.RootTTL <= 0 {
		o.RootTTL = rootTTL
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
	k, err := open(o)
	if err != nil {
		return nil, err
	}
	k.source = o.Source
	switch {
	case o.Material != nil:
	case o.Brought != "":
		k.source = o.Brought
	default:
		k.source = o.Dir
	}
	a := &Authority{o: o, td: td}
	if err := a.set(k); err != nil {
		return nil, err
	}
	return a, nil
}

// Set replaces the authority's keys and trust bundle, after checking that they hold
// together; with an error those before stay. source names them in errors. Leaves
// that were issued are not touched. What is there already changes nothing.
func (a *Authority) Set(m *Material, source string) error {
	k, err := m.parse(source)
	if err != nil {
		return err
	}
	if before := a.cur.Load(); before.same(k) {
		return nil
	}
	k.source = source
	if err := a.set(k); err != nil {
		return err
	}
	a.mu.Lock()
	notify := a.notify
	a.mu.Unlock()
	for _, f := range notify {
		f()
	}
	return nil
}

func (a *Authority) set(k *keys) error {
	now := a.o.Now()
	if now.After(k.base.end) {
		return fmt.Errorf("%w (ended %s)", ErrExpired, k.base.end.UTC().Format(time.RFC3339))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.cur.Load(); old == nil || !old.base.cert.Equal(k.base.cert) || !old.base.root.Equal(k.base.root) {
		a.inter = nil
		if a.o.Intermediate && k.base.mayDelegate() {
			inter, half, err := a.intermediate(k, now)
			if err != nil {
				return err
			}
			a.inter, a.half = inter, half
		}
	}
	a.cur.Store(k)
	return nil
}

// Source names where the keys are from, as Open and Set were told.
func (a *Authority) Source() string { return a.cur.Load().source }

// Notify calls f, in the goroutine that calls Set, after each change.
func (a *Authority) Notify(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notify = append(a.notify[:len(a.notify):len(a.notify)], f)
}

// TrustDomain returns the trust domain's name.
func (a *Authority) TrustDomain() string { return a.td.Name() }

// Roots returns the trust bundle of this moment. Read only.
func (a *Authority) Roots() []*x509.Certificate { return a.cur.Load().roots }

// Bundle returns the trust bundle of this moment as PEM. Read only.
func (a *Authority) Bundle() []byte { return a.cur.Load().bundle }

// Trust is what proxies are told of an authority: all of one moment.
type Trust struct {
	Bundle []byte // PEM
	ID     string // the bundle's name
	Root   string // the name of the root that what is signed now leads to
}

// Trust returns what proxies are to be told at this moment.
func (a *Authority) Trust() Trust { return a.cur.Load().trust }

// Root returns the root that what is signed at this moment leads to.
func (a *Authority) Root() *x509.Certificate { return a.cur.Load().base.root }

// NotAfter returns when the authority itself ends, for a metric.
func (a *Authority) NotAfter() time.Time { return a.cur.Load().base.end }

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
	roots []*x509.Certificate
}

// Sign issues a leaf for identity, a SPIFFE ID that the caller has attested, with
// the public key of csr (PEM). Nothing else is taken from the CSR; if it names
// anybody it must be identity alone. workload, "NAMESPACE/INSTANCE", is who asked; the
// leaf says so where only the control plane looks (mtls.Workload). ttl ≤ 0 is the default; it is cut to MaxTTL and
// to the end of the authority's own chain. Errors: ErrCSR, ErrIdentity, ErrExpired.
func (a *Authority) Sign(csr []byte, identity, workload string, ttl time.Duration, now time.Time) (*Issued, error) {
	key, err := checkCSR(csr, identity)
	if err != nil {
		return nil, err
	}
	return a.issue(key, identity, workload, nil, ttl, now)
}

// issue signs a leaf for a public key that was checked.
func (a *Authority) issue(key crypto.PublicKey, identity, workload string, dns []string, ttl time.Duration, now time.Time) (*Issued, error) {
	id, err := spiffeid.FromString(identity)
	if err != nil || !id.MemberOf(a.td) || id.Path() == "" {
		return nil, fmt.Errorf("%w: %.200q is no workload of trust domain %s", ErrIdentity, identity, a.td.Name())
	}
	if ttl <= 0 {
		ttl = a.o.DefaultTTL
	}
	k, by, err := a.issuer(now)
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
	if workload != "" {
		template.ExtraExtensions = []pkix.Extension{mtls.WorkloadExtension(workload)}
	}
	leaf, err := by.sign(template, key)
	if err != nil {
		return nil, err
	}
	out := &Issued{ID: identity, Leaf: leaf, NotAfter: end, certs: append([]*x509.Certificate{leaf}, by.chain...)}
	for _, c := range out.certs {
		out.Chain = append(out.Chain, string(appendPEM(nil, c)))
	}
	out.Chain = append(out.Chain, string(k.bundle))
	out.roots = k.roots
	return out, nil
}

// issuer returns what signs leaves now, and the keys that it belongs to.
func (a *Authority) issuer(now time.Time) (*keys, *issuer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.cur.Load()
	if now.After(k.base.end) {
		return nil, nil, fmt.Errorf("%w (ended %s)", ErrExpired, k.base.end.UTC().Format(time.RFC3339))
	}
	if !a.o.Intermediate || !k.base.mayDelegate() {
		return k, &k.base, nil
	}
	if a.inter == nil || !now.Before(a.half) {
		inter, half, err := a.intermediate(k, now)
		if err != nil {
			return nil, nil, err
		}
		a.inter, a.half = inter, half
	}
	return k, a.inter, nil
}

// mayDelegate says whether an intermediate below i would be believed: no
// certificate on the way to the root may forbid one more (RFC 5280 §4.2.1.9). Some
// that are brought do; then they sign leaves themselves.
func (i *issuer) mayDelegate() bool {
	for below, c := range append(i.chain[:len(i.chain):len(i.chain)], i.root) {
		if c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < below+1 {
			return false
		}
	}
	return true
}

// intermediate makes a replica's own issuer, and says when the next one is due.
func (a *Authority) intermediate(k *keys, now time.Time) (*issuer, time.Time, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("ca: key of the intermediate: %w", err)
	}
	end := now.Add(a.o.IntermediateTTL)
	if end.After(k.base.end) {
		end = k.base.end
	}
	cert, err := k.base.sign(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{a.td.Name()}, CommonName: "Seine intermediate CA"},
		NotBefore: later(now.Add(-Backdate), k.base.cert.NotBefore), NotAfter: end,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: a.td.Name()}},
	}, key.Public())
	if err != nil {
		return nil, time.Time{}, err
	}
	i := &issuer{cert: cert, key: key, root: k.base.root, end: cert.NotAfter, chain: append([]*x509.Certificate{cert}, k.base.chain...)}
	return i, now.Add(end.Sub(now) / 2), nil
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
		issued, err := a.issue(key.Public(), a.ServerID(), "", dns, ttl, a.o.Now())
		if err != nil {
			return nil, err
		}
		id := &mtls.Identity{
			Certificate: tls.Certificate{PrivateKey: key, Leaf: issued.Leaf},
			Roots:       map[string][]*x509.Certificate{a.td.Name(): issued.roots},
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
