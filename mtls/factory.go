package mtls

import (
	"container/list"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options bound a Factory.
type Options struct {
	Pending    int      // handshakes that may exist at once; 0: 4096
	Peers      int      // peers whose session is kept for resumption; 0: 4096
	ServerALPN []string // in order of preference; nil: ServerALPN()
}

// ALPNShared is the protocol of a connection that carries exchanges of HTTP/1.1
// as streams of HTTP/2, between two sidecars of ours.
const ALPNShared = "seine-http/1.1-shared"

// ServerALPN returns the protocols that a mesh server agrees to, best first:
// our own, whose first bytes tell who calls, then Istio's.
func ServerALPN() []string {
	return []string{"seine-http/2", ALPNShared, "seine-http/1.1", "seine-tcp", "istio-h2", "istio-http/1.1", "istio"}
}

// Factory makes sessions from the current certificate of a Source. It is safe
// for concurrent use; one serves a whole process.
type Factory struct {
	src     *Source
	o       Options
	pool    pool
	pending atomic.Int64
	outside origins

	mu  sync.Mutex
	gen atomic.Pointer[generation]
}

// NewFactory returns a factory over src.
func NewFactory(src *Source, o Options) *Factory {
	if o.Pending <= 0 {
		o.Pending = 4096
	}
	if o.Peers <= 0 {
		o.Peers = 4096
	}
	if o.ServerALPN == nil {
		o.ServerALPN = ServerALPN()
	}
	return &Factory{src: src, o: o}
}

// Client returns a session that dials: it accepts exactly a server whose SPIFFE
// ID is expect or one of alts. endpoint is a part of the resumption cache's key.
func (f *Factory) Client(expect string, alts []string, sni string, endpoint netip.AddrPort, alpn []string) *Session {
	s := f.Server()
	s.client = &clientConfig{ids: append([]string{expect}, alts...), sni: sni, endpoint: endpoint, alpn: alpn}
	return s
}

// Server returns a session that accepts any workload of a trusted domain.
func (f *Factory) Server() *Session {
	s := &Session{factory: f}
	s.in.pool = &f.pool
	return s
}

// Handshakes returns how many handshakes there are at this moment.
func (f *Factory) Handshakes() int { return int(f.pending.Load()) }

func (f *Factory) admit() error {
	if f.pending.Add(1) > int64(f.o.Pending) {
		f.pending.Add(-1)
		return ErrBusy
	}
	return nil
}

func (f *Factory) leave() { f.pending.Add(-1) }

// current returns the configuration for the certificate and bundle of now.
func (f *Factory) current() (*generation, error) {
	m := f.src.material()
	if m == nil {
		return nil, ErrNoCertificate
	}
	if g := f.gen.Load(); g != nil && g.m == m {
		return g, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m = f.src.material(); f.gen.Load() == nil || f.gen.Load().m != m {
		f.gen.Store(newGeneration(f.src, m, f.o))
	}
	return f.gen.Load(), nil
}

// generation is everything that belongs to one certificate and one trust bundle.
// A new one has new ticket keys and an empty session cache, so that nothing that
// an old certificate or a retired root vouched for is ever resumed.
type generation struct {
	src    *Source
	m      *material
	server *tls.Config

	mu    sync.Mutex
	limit int
	peers map[peerKey]*list.Element // of *peerEntry
	order list.List                 // most recently used first
}

func newGeneration(src *Source, m *material, o Options) *generation {
	g := &generation{src: src, m: m, limit: o.Peers, peers: map[peerKey]*list.Element{}}
	c := src.base()
	c.Certificates = []tls.Certificate{*m.cert}
	c.NextProtos = o.ServerALPN
	c.ClientAuth = tls.RequireAnyClientCert // verified below, against the bundle of that moment
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := src.verify(cs.PeerCertificates, x509.ExtKeyUsageClientAuth)
		return err
	}
	var key [32]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	c.SetSessionTicketKeys([][32]byte{key})
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		// No ticket outlives the leaf, or the certificate that replaced it.
		if src.material() != m || src.o.Now().After(m.leaf.NotAfter) {
			return nil, nil
		}
		return c.DecryptTicket(ticket, cs)
	}
	g.server = c
	return g
}

// clientConfig is what the caller of Factory.Client asked for.
type clientConfig struct {
	ids      []string
	sni      string
	endpoint netip.AddrPort
	alpn     []string
	origin   *Origin // not the mesh's; ids and sni do not count
}

// peerKey tells sessions apart: an identity, where it is, and what was offered.
type peerKey struct {
	ids, sni, alpn string
	endpoint       netip.AddrPort
}

// peerEntry is one peer's configuration and the last ticket that it gave.
type peerEntry struct {
	key     peerKey
	config  *tls.Config
	session atomic.Pointer[tls.ClientSessionState]
}

// Get and Put make a peerEntry the session cache of its own configuration;
// crypto/tls's key, the server name, is not enough to tell peers apart.
func (p *peerEntry) Get(string) (*tls.ClientSessionState, bool) {
	s := p.session.Load()
	return s, s != nil
}

func (p *peerEntry) Put(_ string, s *tls.ClientSessionState) { p.session.Store(s) }

// client returns the configuration to dial c with.
func (g *generation) client(c *clientConfig) *tls.Config {
	// No valid SPIFFE ID, host name or protocol name holds the separator.
	key := peerKey{ids: strings.Join(c.ids, "\x00"), sni: c.sni, alpn: strings.Join(c.alpn, "\x00"), endpoint: c.endpoint}
	g.mu.Lock()
	defer g.mu.Unlock()
	if e, ok := g.peers[key]; ok {
		g.order.MoveToFront(e)
		return e.Value.(*peerEntry).config
	}
	if len(g.peers) >= g.limit {
		last := g.order.Back()
		delete(g.peers, last.Value.(*peerEntry).key)
		g.order.Remove(last)
	}
	p := &peerEntry{key: key}
	ids := slices.Clone(c.ids)
	src, cert := g.src, g.m.cert
	p.config = src.base()
	p.config.ServerName = c.sni
	p.config.NextProtos = slices.Clone(c.alpn)
	p.config.InsecureSkipVerify = true // a host name proves nothing here; VerifyConnection checks the identity
	p.config.VerifyConnection = func(cs tls.ConnectionState) error {
		return src.verifyIs(cs.PeerCertificates, x509.ExtKeyUsageServerAuth, ids)
	}
	p.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	p.config.ClientSessionCache = p
	g.peers[key] = g.order.PushFront(p)
	return p.config
}

// base is what all configurations share: TLS 1.3 alone, the post-quantum hybrid first.
func (s *Source) base() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		DynamicRecordSizingDisabled: true, // records go out in one write; small ones only cost
		Time:                        func() time.Time { return s.o.Now() },
	}
}
