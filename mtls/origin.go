package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Origin says how TLS is begun with a server that is not the mesh's: Istio's
// ClientTLSSettings of mode SIMPLE, or MUTUAL where Certificate is set. It is
// comparable: equal Origins share sessions.
type Origin struct {
	Begin      bool   // always set: the zero Origin is none
	ServerName string // SNI, and the name that the server must prove unless Names says others
	Names      string // names that it may have instead (DNS, URI or IP), separated by spaces
	CA         string // file with the roots; "": the system's
	// Certificate and Key are files with the client's own.
	Certificate, Key string
	Unverified       bool // insecureSkipVerify: whoever answers is believed
	// CRL is a file with the lists of certificates that the authorities took back, of
	// each one in the chain; "": nobody looks.
	CRL string
	// Credential is a folder with a Secret's keys as files, which name CA and, if
	// Mutual, Certificate and Key; "": none.
	Credential string
	Mutual     bool
}

// Errors of an Origin's files.
var (
	ErrRoots = errors.New("no roots to verify the server by")
	ErrName  = errors.New("the server's certificate has none of the expected names")
)

// Originate returns a session that dials a server outside the mesh. alpn is
// what is offered to it. Its Peer is nil: there is no identity of the mesh.
func (f *Factory) Originate(o Origin, endpoint netip.AddrPort, alpn []string) *Session {
	s := f.Server()
	s.client = &clientConfig{origin: &o, endpoint: endpoint, alpn: alpn}
	return s
}

// Bounds of what is read and kept of Origins.
const (
	maxPEM      = 1 << 20
	maxOrigins  = 1024
	originFresh = 10 * time.Second // how old a file may be that serves a handshake
)

// origins keeps the configuration of each Origin, as long as its files stay as
// they were.
type origins struct {
	mu   sync.Mutex
	kept map[originKey]*origin
}

type originKey struct {
	Origin
	alpn     string
	endpoint netip.AddrPort
}

type origin struct {
	config *tls.Config
	files  []byte // contents, one after the other
	at     time.Time
}

// config returns what to dial with. It reads files: not for an event loop.
func (o *origins) config(c *clientConfig, now time.Time) (*tls.Config, error) {
	key := originKey{*c.origin, strings.Join(c.alpn, "\x00"), c.endpoint}
	o.mu.Lock()
	old := o.kept[key]
	o.mu.Unlock()
	if old != nil && now.Sub(old.at) < originFresh && !now.Before(old.at) {
		return old.config, nil
	}
	var all []byte
	var contents [4][]byte
	with := c.origin.files()
	for i, name := range [...]string{with.CA, with.Certificate, with.Key, with.CRL} {
		if name == "" {
			continue
		}
		b, err := readPEM(name)
		if err != nil {
			return nil, fmt.Errorf("TLS origination: %w", err)
		}
		contents[i] = b
		all = append(all, b...)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if old != nil && bytes.Equal(old.files, all) {
		o.kept[key] = &origin{old.config, old.files, now}
		return old.config, nil
	}
	config, err := with.build(contents[0], contents[1], contents[2], contents[3])
	if err != nil {
		return nil, fmt.Errorf("TLS origination: %w", err)
	}
	config.NextProtos = slices.Clone(c.alpn)
	// Changed files are a new configuration with an empty cache: no session that
	// old roots vouched for is resumed.
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if o.kept == nil || len(o.kept) >= maxOrigins {
		o.kept = map[originKey]*origin{}
	}
	o.kept[key] = &origin{config, all, now}
	return config, nil
}

func readPEM(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(b) > maxPEM {
		err = fmt.Errorf("read %s: larger than %d bytes", name, maxPEM)
	}
	return b, err
}

func (o *Origin) build(ca, cert, key, crl []byte) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName, DynamicRecordSizingDisabled: true}
	if o.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s: %w", o.CA, ErrRoots)
		}
	}
	if o.Certificate != "" {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", o.Certificate, o.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	var revoked revocations
	if o.CRL != "" {
		var err error
		if revoked, err = parseRevocations(crl); err != nil {
			return nil, fmt.Errorf("%s: %w", o.CRL, err)
		}
	}
	if o.Unverified {
		if o.CRL != "" {
			return nil, fmt.Errorf("%s: %w: it says nothing of a server that is not verified: leave out insecureSkipVerify or caCrl", o.CRL, ErrRevocationList)
		}
		c.InsecureSkipVerify = true
		return c, nil
	}
	names := strings.Fields(o.Names)
	if len(names) == 0 {
		if o.ServerName == "" {
			return nil, fmt.Errorf("no server name: %w", ErrName)
		}
		if o.CRL != "" { // also on resumption: a list may have changed, or ended
			c.VerifyConnection = func(cs tls.ConnectionState) error { return revoked.checkAny(cs.VerifiedChains, time.Now()) }
		}
		return c, nil // crypto/tls verifies chain and name
	}
	// Other names than SNI: the chain and one of them. VerifyConnection also runs
	// on resumption.
	c.InsecureSkipVerify = true
	roots := c.RootCAs
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		leaf := cs.PeerCertificates[0]
		between := x509.NewCertPool()
		for _, x := range cs.PeerCertificates[1:min(len(cs.PeerCertificates), maxChain)] {
			between.AddCert(x)
		}
		chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		if err != nil {
			return err
		}
		if o.CRL != "" {
			if err := revoked.checkAny(chains, time.Now()); err != nil {
				return err
			}
		}
		for _, n := range names {
			if leaf.VerifyHostname(n) == nil {
				return nil
			}
			for _, u := range leaf.URIs {
				if u.String() == n {
					return nil
				}
			}
		}
		return fmt.Errorf("%w: %s", ErrName, o.Names)
	}
	return c, nil
}
