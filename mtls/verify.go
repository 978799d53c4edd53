package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrNoCertificate: our side has none yet (wait for Source.Ready), or the peer sent none.
	ErrNoCertificate = errors.New("mtls: no certificate")
	// ErrIdentity: the leaf is not an X.509-SVID: not exactly one URI SAN, or not a SPIFFE ID.
	ErrIdentity = errors.New("mtls: certificate without one valid SPIFFE ID")
	// ErrTrustDomain: there is no trust bundle for the peer's trust domain.
	ErrTrustDomain = errors.New("mtls: trust domain is not trusted")
	// ErrChain: the chain does not lead to a root of the bundle, or has expired.
	ErrChain = errors.New("mtls: certificate chain not valid")
	// ErrUnexpectedPeer: the peer is somebody, but not who was expected (secure naming).
	ErrUnexpectedPeer = errors.New("mtls: peer is not who was expected")
)

// maxChain bounds the certificates of a peer that are looked at.
const maxChain = 8

// maxID is the longest SPIFFE ID (SPIFFE-ID §2.3).
const maxID = 2048

// ParseID parses a SPIFFE ID with a path, as a workload bears it.
func ParseID(id string) (spiffeid.ID, error) {
	if len(id) > maxID {
		return spiffeid.ID{}, fmt.Errorf("%w: longer than %d bytes", ErrIdentity, maxID)
	}
	p, err := spiffeid.FromString(id)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %.100q: %w", ErrIdentity, id, err)
	}
	if p.Path() == "" {
		return spiffeid.ID{}, fmt.Errorf("%w: %.100q has no path", ErrIdentity, id)
	}
	return p, nil
}

// leafID returns the identity of an X.509-SVID (X509-SVID §2, §4, §5.2).
func leafID(leaf *x509.Certificate) (spiffeid.ID, error) {
	switch {
	case len(leaf.URIs) != 1:
		return spiffeid.ID{}, fmt.Errorf("%w: it has %d URI SANs", ErrIdentity, len(leaf.URIs))
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, fmt.Errorf("%w: it is an authority's, not a workload's", ErrIdentity)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, fmt.Errorf("%w: its key usage lacks digitalSignature", ErrIdentity)
	}
	return ParseID(leaf.URIs[0].String())
}

// verifyChain checks a peer's certificates against the bundle of its own trust
// domain: one domain's root never vouches for another's workload.
func verifyChain(chain []*x509.Certificate, pools map[string]*x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (*vouched, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w from the peer", ErrNoCertificate)
	}
	if len(chain) > maxChain {
		return nil, fmt.Errorf("%w: %d certificates, at most %d", ErrChain, len(chain), maxChain)
	}
	id, err := leafID(chain[0])
	if err != nil {
		return nil, err
	}
	roots := pools[id.TrustDomain().Name()]
	if roots == nil {
		return nil, fmt.Errorf("%w: %s", ErrTrustDomain, id)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrChain, id, err)
	}
	v := &vouched{id: id}
	for _, path := range paths { // any one will do: the one that lasts longest
		from, until := path[0].NotBefore, path[0].NotAfter
		for _, c := range path[1:] {
			if c.NotBefore.After(from) {
				from = c.NotBefore
			}
			if c.NotAfter.Before(until) {
				until = c.NotAfter
			}
		}
		if until.After(v.until) {
			v.from, v.until = from, until
		}
	}
	return v, nil
}

// expectOneOf is secure naming: who answers must be who the Plan says lives there.
func expectOneOf(got spiffeid.ID, want []string) error {
	if slices.Contains(want, got.String()) {
		return nil
	}
	return fmt.Errorf("%w: it is %s, expected %s", ErrUnexpectedPeer, got, strings.Join(want, " or "))
}

// Peer is what is known of a verified peer, computed once for a connection.
type Peer struct {
	ID             string // spiffe://TD/ns/NS/sa/SA
	TrustDomain    string
	Namespace      string // "" if the ID does not have Istio's form
	ServiceAccount string
	Principal      string // TD/ns/NS/sa/SA, as Istio's policies and metrics write it
	Hash           string // SHA-256 of the leaf's DER, hex in lower case
	Subject        string // RFC 2253; what could break a header is escaped
	NotAfter       time.Time
	// XFCC is one whole element of x-forwarded-client-cert (Envoy's format, as
	// Istio's server sidecar writes it): By, Hash, Subject, URI. Read only.
	XFCC []byte

	self string // whom it spoke to
}

// newPeer reads a verified leaf; self is the identity that it spoke to.
func newPeer(leaf *x509.Certificate, self string) (*Peer, error) {
	id, err := leafID(leaf)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(leaf.Raw)
	p := &Peer{
		ID: id.String(), TrustDomain: id.TrustDomain().Name(),
		Principal: strings.TrimPrefix(id.String(), "spiffe://"),
		Hash:      hex.EncodeToString(sum[:]), Subject: headerSafe(leaf.Subject.String()), NotAfter: leaf.NotAfter, self: self,
	}
	p.Namespace, p.ServiceAccount = SplitPath(id.Path())
	// A SPIFFE ID's characters need no quotes; a subject's do. headerSafe has left
	// two characters in it that mean something between quotes.
	subject := strings.ReplaceAll(strings.ReplaceAll(p.Subject, `\`, `\\`), `"`, `\"`)
	p.XFCC = fmt.Appendf(nil, `By=%s;Hash=%s;Subject="%s";URI=%s`,
		self, p.Hash, subject, p.ID)
	return p, nil
}

// SplitPath returns namespace and service account of a SPIFFE ID's path
// /ns/NAMESPACE/sa/ACCOUNT, "" and "" if it has another form.
func SplitPath(path string) (namespace, account string) {
	parts := strings.Split(path, "/")
	if len(parts) != 5 || parts[0] != "" || parts[1] != "ns" || parts[3] != "sa" {
		return "", ""
	}
	return parts[2], parts[4]
}

// headerSafe bounds s and escapes every byte that is not printable ASCII as \HH
// (RFC 2253 §2.4): a subject is its holder's text, and a line break in it would
// write header fields of its own.
func headerSafe(s string) string {
	const most = 512
	s = s[:min(len(s), most)]
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e {
			fmt.Fprintf(&b, `\%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// VerifyServer checks a control plane's certificate: the SPIFFE ID id, or, of a
// leaf without any URI SAN, the DNS name dns. It is for a client that has a bundle
// and no certificate of its own yet.
func VerifyServer(chain []*x509.Certificate, roots map[string][]*x509.Certificate, id, dns string, now time.Time) error {
	trusted, err := newAnchors(roots)
	if err != nil {
		return err
	}
	pools := trusted.pools
	if len(chain) == 0 || len(chain[0].URIs) > 0 {
		got, err := verifyChain(chain, pools, x509.ExtKeyUsageServerAuth, now)
		if err != nil {
			return err
		}
		return expectOneOf(got.id, []string{id})
	}
	want, err := ParseID(id)
	if err != nil {
		return err
	}
	pool := pools[want.TrustDomain().Name()]
	if pool == nil {
		return fmt.Errorf("%w: %s", ErrTrustDomain, want.TrustDomain())
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:min(len(chain), maxChain)] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, DNSName: dns, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return fmt.Errorf("%w: %w", ErrChain, err)
	}
	return nil
}
