package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"time"
)

// Identity is a leaf with its key and chain, and the trust bundles that hold with it.
type Identity struct {
	Certificate tls.Certificate                // leaf first; the key lives in memory only
	Roots       map[string][]*x509.Certificate // trust domain → roots
}

// SourceOptions are what a Source needs from outside.
type SourceOptions struct {
	// Request obtains a new certificate (see the caclient package). Needed by Run alone.
	Request func(ctx context.Context) (*Identity, error)
	Now     func() time.Time // nil: time.Now
	Jitter  func() float64   // in [0,1); nil: math/rand/v2
	Log     *slog.Logger     // nil: discards
}

// Source holds the current certificate and trust bundle, swapped atomically;
// connections that stand are not touched. Safe for concurrent use.
type Source struct{}

// NewSource returns an empty source.
func NewSource(o SourceOptions) *Source { return &Source{} }

// Set makes id the current identity, after checking that it holds together.
func (s *Source) Set(id *Identity) error { return nil }

// Run keeps the certificate fresh until ctx ends: the first one at once, then at
// half to two thirds of each one's life, with back-off while the CA is away.
func (s *Source) Run(ctx context.Context) error { return nil }

// Ready is closed once there is a certificate.
func (s *Source) Ready() <-chan struct{} { return nil }

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
func (s *Source) Status() Status { return Status{} }

// Current returns the certificate of this moment, nil before Ready.
func (s *Source) Current() *tls.Certificate { return nil }

// ClientTLS returns the client's side for gRPC (xDS): TLS 1.3, this source's
// current certificate at each handshake, and a server that must be one of ids.
func (s *Source) ClientTLS(serverName string, ids ...string) *tls.Config { return nil }
