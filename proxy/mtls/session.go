package mtls

import (
	"errors"
	"net/netip"
)

var (
	// ErrEmpty says that no complete record is there to read: wait for more.
	ErrEmpty = errors.New("mtls: no complete record")
	// ErrFull says that a bound was met: Feed got more than Room, or Write more
	// than the outgoing buffer takes; send what Outgoing holds, then go on.
	ErrFull = errors.New("mtls: buffer full")
	// ErrBusy fails a handshake for which there was no room among those that run.
	ErrBusy = errors.New("mtls: too many handshakes at once")
)

// State is where a session stands.
type State uint8

const (
	Handshaking State = iota
	Established
	Failed
)

// Options bound a Factory.
type Options struct {
	Running    int      // handshakes that may compute at once; 0: 2
	Pending    int      // handshakes that may exist at once; 0: 4096
	ServerALPN []string // in order of preference; nil: ServerALPN()
}

// ServerALPN returns the protocols that a mesh server agrees to, best first.
func ServerALPN() []string {
	return []string{"seine-http/1.1", "seine-tcp", "istio-http/1.1", "istio"}
}

// Factory makes sessions from the current certificate of a Source. It is safe
// for concurrent use.
type Factory struct{ src *Source }

// NewFactory returns a factory over src.
func NewFactory(src *Source, o Options) *Factory { return &Factory{src: src} }

// Client returns a session that dials: it accepts exactly a server whose SPIFFE
// ID is expect or one of alts. endpoint is a part of the resumption cache's key.
func (f *Factory) Client(expect string, alts []string, sni string, endpoint netip.AddrPort, alpn []string) *Session {
	return &Session{}
}

// Server returns a session that accepts any workload of a trusted domain.
func (f *Factory) Server() *Session { return &Session{} }

// Peer is what is known of a verified peer, computed once for a connection.
type Peer struct {
	ID             string // spiffe://TD/ns/NS/sa/SA
	TrustDomain    string
	Namespace      string // "" if the ID does not have Istio's form
	ServiceAccount string
	Principal      string // TD/ns/NS/sa/SA, as Istio's policies and metrics write it
	Hash           string // SHA-256 of the leaf, hex in lower case
	Subject        string // RFC 2253
	XFCC           []byte // one whole element: By=…;Hash=…;Subject="…";URI=… ; read only
}

// Session is one TLS connection over memory. See the package's example of use.
type Session struct {
	Tag any // the loop's own
}

// Handshake begins. wake is called by any goroutine, at most once between two
// calls of Progress, when Progress has something to tell or Outgoing to send.
func (s *Session) Handshake(wake func(*Session)) {}

// Progress reports where the handshake stands; err is set with Failed. Once it
// has said Established the session belongs to the caller alone, without a lock.
func (s *Session) Progress() (State, error) { return Handshaking, nil }

// Room is how many bytes Feed takes now.
func (s *Session) Room() int { return 0 }

// Feed hands ciphertext over. While the handshake runs it is copied; afterwards
// cipher is borrowed until Read has answered ErrEmpty or an error, or Hold was called.
func (s *Session) Feed(cipher []byte) error { return nil }

// Hold copies what is still borrowed, so that the caller may reuse its scratch
// and Read later.
func (s *Session) Hold() {}

// Read returns plaintext; ErrEmpty when no complete record is left, io.EOF after
// the peer's close_notify. It may have made ciphertext: look at Outgoing.
func (s *Session) Read(dst []byte) (int, error) { return 0, ErrEmpty }

// Write encrypts p into the outgoing buffer. With ErrFull only the first n bytes
// were taken.
func (s *Session) Write(p []byte) (n int, err error) { return 0, nil }

// Outgoing is the ciphertext to send; valid until the next call of a method.
func (s *Session) Outgoing() []byte { return nil }

// Sent drops the first n bytes of Outgoing.
func (s *Session) Sent(n int) {}

// Abort ends a handshake that runs (timeout, peer gone); Progress then fails with err.
func (s *Session) Abort(err error) {}

// Close writes close_notify to the outgoing buffer; reading goes on (half close). Idempotent.
func (s *Session) Close() error { return nil }

// Release gives every buffer back and aborts a handshake that runs; wake is not called
// any more (one that is under way may still come). The session must not be used again.
func (s *Session) Release() {}

// Peer returns the verified peer; nil before Established.
func (s *Session) Peer() *Peer { return nil }

// PeerID is Peer().ID, or "".
func (s *Session) PeerID() string { return "" }

// ALPN is the protocol that was agreed, or "".
func (s *Session) ALPN() string { return "" }

// SNI is the server name that the client sent.
func (s *Session) SNI() string { return "" }

// Resumed says whether the handshake resumed an earlier session.
func (s *Session) Resumed() bool { return false }
