// Package caclient asks the mesh's certificate authority for this workload's
// certificate over Istio's CreateCertificate: a new key for each request, a token
// read anew from its file, and not a byte of it sent before the server has proved
// to be seined. Keys stay in memory; neither key nor token is ever logged.
package caclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	cav1 "github.com/seinemesh/seine/api/ca/v1"
	"github.com/seinemesh/seine/mtls"
)

const (
	// Method is Istio's path of CreateCertificate.
	Method = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
	// DefaultServerName is the DNS name of the control plane.
	DefaultServerName = "seined.seine-system.svc"

	maxFile   = 1 << 20
	maxToken  = 16 << 10
	maxAnswer = 1 << 20
)

// ServerID returns the control plane's SPIFFE ID in a trust domain.
func ServerID(trustDomain string) string {
	return "spiffe://" + trustDomain + "/ns/seine-system/sa/seined"
}

// Options name the authority and this workload.
type Options struct {
	Address     string        // HOST:15012
	ServerName  string        // SNI, and DNS SAN of a server without a SPIFFE ID; "": DefaultServerName
	TrustDomain string        // seined's and this workload's
	BundleFile  string        // PEM of the roots that seined is verified by; read anew for each request
	TokenFile   string        // join or service account token; read anew for each request
	TTL         time.Duration // life to ask for; 0: the authority's default
	ID          string        // the SPIFFE ID that the certificate must bear
	// Trusted returns the roots that this proxy trusts at this moment, nil before it
	// has any. They vouch for seined beside the file's: who was told of a new root by
	// seined itself may have a file that is late. nil: the file alone.
	Trusted func() []*x509.Certificate
	// Dial opens the connection (a sidecar marks its own sockets); nil: net.Dialer.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	Now  func() time.Time // nil: time.Now
}

// Client is safe for concurrent use. It keeps no connection: certificates are
// asked for rarely, and each time the roots are read anew.
type Client struct{ o Options }

// New checks o. It opens nothing yet.
func New(o Options) (*Client, error) {
	if o.ServerName == "" {
		o.ServerName = DefaultServerName
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	id, err := mtls.ParseID(o.ID)
	if err != nil {
		return nil, fmt.Errorf("caclient: own identity: %w", err)
	}
	if id.TrustDomain().Name() != o.TrustDomain {
		return nil, fmt.Errorf("caclient: own identity %s is not of trust domain %q", id, o.TrustDomain)
	}
	if o.Address == "" || o.BundleFile == "" || o.TokenFile == "" {
		return nil, errors.New("caclient: address, bundle file and token file are needed")
	}
	return &Client{o: o}, nil
}

// Request makes a key and a CSR and returns the identity that the CA issued. It is
// what mtls.SourceOptions.Request wants.
func (c *Client) Request(ctx context.Context) (*mtls.Identity, error) {
	id, err := c.request(ctx)
	if err != nil {
		return nil, fmt.Errorf("caclient: certificate for %s from %s: %w", c.o.ID, c.o.Address, err)
	}
	return id, nil
}

func (c *Client) request(ctx context.Context) (*mtls.Identity, error) {
	roots, err := c.bundle()
	if err != nil {
		return nil, err
	}
	token, err := readBounded(c.o.TokenFile, maxToken)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	secret := strings.TrimSpace(string(token))
	if secret == "" {
		return nil, fmt.Errorf("token file %s is empty", c.o.TokenFile)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	csr, err := newCSR(key, c.o.ID)
	if err != nil {
		return nil, err
	}
	conn, err := c.connect(roots)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
	answer := &cav1.CertificateResponse{}
	err = conn.Invoke(ctx, Method, &cav1.CertificateRequest{
		Csr: string(csr), ValidityDuration: int64((c.o.TTL + time.Second - 1) / time.Second),
	}, answer, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, err
	}
	id, err := c.accept(answer.GetCertChain(), key)
	if err != nil {
		return nil, fmt.Errorf("answer refused: %w", err)
	}
	return id, nil
}

func newCSR(key *ecdsa.PrivateKey, id string) ([]byte, error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, fmt.Errorf("CSR: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// connect returns a connection on which nothing is sent before the server's
// certificate was verified: gRPC's handshake comes first, and fails closed.
func (c *Client) connect(roots []*x509.Certificate) (*grpc.ClientConn, error) {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: c.o.ServerName, Time: c.o.Now,
		InsecureSkipVerify: true, // VerifyConnection does it: SPIFFE ID first
		VerifyConnection:   func(cs tls.ConnectionState) error { return c.verifyServer(cs, roots) },
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithNoProxy(), // an HTTP_PROXY that applications use is not for this
	}
	if c.o.Dial != nil {
		opts = append(opts, grpc.WithContextDialer(c.o.Dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.o.Address, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// verifyServer accepts seined alone: its SPIFFE ID or, from a server without any
// URI SAN (a certificate brought from elsewhere), the DNS name. A workload's
// certificate has an ID that is not seined's, and a DNS name beside it does not help.
func (c *Client) verifyServer(cs tls.ConnectionState, roots []*x509.Certificate) error {
	return mtls.VerifyServer(cs.PeerCertificates, map[string][]*x509.Certificate{c.o.TrustDomain: roots},
		ServerID(c.o.TrustDomain), c.o.ServerName, c.o.Now())
}

// bundle returns the roots of the file as it is now, and those that are trusted now.
// None of another moment is among them: a root that was retired is in neither.
func (c *Client) bundle() ([]*x509.Certificate, error) {
	data, err := readBounded(c.o.BundleFile, maxFile)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	roots, err := mtls.ParseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("trust bundle %s: %w", c.o.BundleFile, err)
	}
	if c.o.Trusted != nil {
		roots = append(roots, c.o.Trusted()...)
	}
	return roots, nil
}

// accept takes the CA's answer apart: leaf, intermediates, and last the roots.
func (c *Client) accept(chain []string, key *ecdsa.PrivateKey) (*mtls.Identity, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("%d elements in cert_chain, at least leaf and root are needed", len(chain))
	}
	roots, err := mtls.ParseBundle([]byte(chain[len(chain)-1]))
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	certs, err := mtls.ParseBundle([]byte(strings.Join(chain[:len(chain)-1], "\n")))
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	id := &mtls.Identity{
		Certificate: tls.Certificate{PrivateKey: key, Leaf: certs[0]},
		Roots:       map[string][]*x509.Certificate{c.o.TrustDomain: roots},
	}
	for _, cert := range certs {
		id.Certificate.Certificate = append(id.Certificate.Certificate, cert.Raw)
	}
	if u := certs[0].URIs; len(u) != 1 || u[0].String() != c.o.ID {
		return nil, fmt.Errorf("%w: the leaf is for %v", mtls.ErrUnexpectedPeer, u)
	}
	return id, nil // Source.Set checks key, chain and time
}

// readBounded reads a small file; the error never shows what is in it.
func readBounded(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return os.ReadFile(path)
}
