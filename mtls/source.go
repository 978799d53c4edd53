package mtls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Identity is a leaf with its key and chain, and the trust bundles that hold with it.
type Identity struct {
	Certificate tls.Certificate                // leaf first; the key lives in memory only
	Roots       map[string][]*x509.Certificate // trust domain → roots
}

// SourceOptions are what a Source needs from outside.
type SourceOptions struct {
	// Request obtains a new certificate (caclient.Client.Request). Needed by Run alone.
	Request func(ctx context.Context) (*Identity, error)
	Now     func() time.Time // nil: time.Now
	Jitter  func() float64   // in [0,1); nil: math/rand/v2
	Log     *slog.Logger     // nil: discards
}

// Source holds the current certificate and trust bundle, swapped atomically;
// connections that stand are not touched. Safe for concurrent use.
type Source struct {
	o     SourceOptions
	cur   atomic.Pointer[material]
	ready chan struct{}
	asked chan struct{} // Renew's

	mu       sync.Mutex // of those who write
	ruled    bool       // SetRoots was called: a bundle that comes with a certificate counts no more
	notify   []func()
	rotated  uint64
	failures uint64
	lastErr  error
}

// material is one certificate and one bundle; immutable.
type material struct {
	cert  *tls.Certificate
	leaf  *x509.Certificate
	chain []*x509.Certificate // leaf first
	id    spiffeid.ID
	roots map[string][]*x509.Certificate
	trust *anchors // of roots
}

// NewSource returns an empty source.
func NewSource(o SourceOptions) *Source {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{o: o, ready: make(chan struct{}), asked: make(chan struct{}, 1)}
}

// Set makes id the current identity, after checking that it holds together: the
// key belongs to the leaf, the leaf is an X.509-SVID, its chain leads to its own
// bundle now. With an error the one before stays.
//
// A bundle that SetRoots gave stays, as the newer knowledge: what comes with a
// certificate may be a replica's that has not heard of a retired root. It gives way
// only if it does not vouch for the new certificate itself.
func (s *Source) Set(id *Identity) error {
	m, err := newMaterial(id, s.o.Now())
	if err != nil {
		return fmt.Errorf("mtls: certificate refused: %w", err)
	}
	s.mu.Lock()
	if old := s.cur.Load(); s.ruled && old != nil {
		if _, err := old.trust.verify(m.chain, x509.ExtKeyUsageServerAuth, s.o.Now()); err == nil {
			m.roots, m.trust = old.roots, old.trust
		} else {
			s.ruled = false
		}
	}
	s.cur.Store(m)
	s.rotated++
	if s.rotated == 1 {
		close(s.ready)
	}
	notify := s.notify
	s.mu.Unlock()
	for _, f := range notify {
		f()
	}
	return nil
}

// SetRoots replaces the trust bundles and keeps the certificate. It is how a root
// comes and is retired between two certificates. Roots that are the current ones
// change nothing: sessions are resumed as before.
func (s *Source) SetRoots(roots map[string][]*x509.Certificate) error {
	trust, err := newAnchors(roots)
	if err != nil {
		return fmt.Errorf("mtls: trust bundle refused: %w", err)
	}
	s.mu.Lock()
	old := s.cur.Load()
	if old == nil {
		s.mu.Unlock()
		return ErrNoCertificate
	}
	s.ruled = true
	if sameRoots(old.roots, roots) {
		s.mu.Unlock()
		return nil
	}
	m := *old
	m.roots, m.trust = roots, trust
	s.cur.Store(&m)
	notify := s.notify
	s.mu.Unlock()
	for _, f := range notify {
		f()
	}
	return nil
}

// Renew has Run replace the certificate now, whatever life it has left. It returns
// at once.
func (s *Source) Renew() {
	select {
	case s.asked <- struct{}{}:
	default:
	}
}

// Notify calls f, in the goroutine that changes the source, after each change.
func (s *Source) Notify(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = append(s.notify[:len(s.notify):len(s.notify)], f)
}

func newMaterial(id *Identity, now time.Time) (*material, error) {
	if id == nil || len(id.Certificate.Certificate) == 0 {
		return nil, ErrNoCertificate
	}
	cert := id.Certificate
	chain := make([]*x509.Certificate, len(cert.Certificate))
	for i, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i, err)
		}
		chain[i] = c
	}
	cert.Leaf = chain[0]
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("no private key that signs")
	}
	want, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if !bytes.Equal(want, chain[0].RawSubjectPublicKeyInfo) {
		return nil, errors.New("the private key does not belong to the leaf")
	}
	trust, err := newAnchors(id.Roots)
	if err != nil {
		return nil, err
	}
	v, err := trust.verify(chain, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return nil, err
	}
	return &material{cert: &cert, leaf: chain[0], chain: chain, id: v.id, roots: id.Roots, trust: trust}, nil
}

func newAnchors(roots map[string][]*x509.Certificate) (*anchors, error) {
	pools := make(map[string]*x509.CertPool, len(roots))
	for td, certs := range roots {
		name, err := spiffeid.TrustDomainFromString(td)
		if err != nil || name.Name() != td {
			return nil, fmt.Errorf("%w: %.100q is no trust domain's name", ErrIdentity, td)
		}
		if len(certs) == 0 {
			continue // nobody vouches for it
		}
		pools[td] = x509.NewCertPool()
		for _, c := range certs {
			pools[td].AddCert(c)
		}
	}
	if len(pools) == 0 {
		return nil, errors.New("trust bundle without a root")
	}
	return &anchors{pools: pools}, nil
}

// Ready is closed once there is a certificate.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// Status is what metrics show of a Source.
type Status struct {
	ID        string
	NotBefore time.Time
	NotAfter  time.Time // zero: no certificate yet
	Rotations uint64    // certificates that were taken, the first included
	Failures  uint64    // requests to the CA that failed
	LastError error     // of the last request; nil when it succeeded
}

// Status returns the state of this moment.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Rotations: s.rotated, Failures: s.failures, LastError: s.lastErr}
	if m := s.cur.Load(); m != nil {
		st.ID, st.NotBefore, st.NotAfter = m.id.String(), m.leaf.NotBefore, m.leaf.NotAfter
	}
	return st
}

// Current returns the certificate of this moment, nil before Ready. Read only.
func (s *Source) Current() *tls.Certificate {
	if m := s.cur.Load(); m != nil {
		return m.cert
	}
	return nil
}

// Roots returns the trust bundles of this moment, by trust domain. Read only.
func (s *Source) Roots() map[string][]*x509.Certificate {
	if m := s.cur.Load(); m != nil {
		return m.roots
	}
	return nil
}

// LeadsTo says whether the certificate of this moment is vouched for by one of roots.
func (s *Source) LeadsTo(roots ...*x509.Certificate) bool {
	m := s.cur.Load()
	return m != nil && LeadsTo(m.chain, s.o.Now(), roots...)
}

func (s *Source) material() *material { return s.cur.Load() }

// id returns our own SPIFFE ID, "" before Ready.
func (s *Source) id() string {
	if m := s.cur.Load(); m != nil {
		return m.id.String()
	}
	return ""
}

// verify checks a peer's chain against the bundle and the clock of this moment.
func (s *Source) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (*vouched, error) {
	m := s.cur.Load()
	if m == nil {
		return nil, ErrNoCertificate
	}
	return m.trust.verify(chain, usage, s.o.Now())
}

// verifyIs is verify, and the peer must be one of ids.
func (s *Source) verifyIs(chain []*x509.Certificate, usage x509.ExtKeyUsage, ids []string) error {
	got, err := s.verify(chain, usage)
	if err != nil {
		return err
	}
	return expectOneOf(got.id, ids)
}

// peer is verify, and all that is known of the peer.
func (s *Source) peer(chain []*x509.Certificate, usage x509.ExtKeyUsage) (*Peer, error) {
	v, err := s.verify(chain, usage)
	if err != nil {
		return nil, err
	}
	self := s.id()
	if p := v.peer.Load(); p != nil && p.self == self {
		return p, nil
	}
	p, err := newPeer(chain[0], self)
	if err == nil {
		v.peer.Store(p)
	}
	return p, err
}
