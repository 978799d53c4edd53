// Package discoverytest holds what tests of both ends of discovery share: keys
// and certificates made on the spot. Nothing but tests may import it.
package discoverytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/seinemesh/seine/mtls"
)

// ServerName is the DNS name in the server's certificate.
const ServerName = "seined.seine-system.svc"

// PKI is a certificate authority for one test.
type PKI struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	pool *x509.CertPool
}

// NewPKI makes a root.
func NewPKI(t testing.TB) *PKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &PKI{t, key, root, pool}
}

// Leaf makes a certificate for a SPIFFE ID ("" for none) that lives for ttl.
func (p *PKI) Leaf(id string, ttl time.Duration) tls.Certificate {
	p.t.Helper()
	return p.leaf(id, ttl)
}

func (p *PKI) leaf(id string, ttl time.Duration, extra ...pkix.Extension) tls.Certificate {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		p.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(ttl),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		ExtraExtensions: extra,
	}
	if id != "" {
		u, err := url.Parse(id)
		if err != nil {
			p.t.Fatal(err)
		}
		tmpl.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.root, &key.PublicKey, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Server is seined's side: a client certificate is verified if there is one.
func (p *PKI) Server() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{p.Leaf("spiffe://cluster.local/ns/seine-system/sa/seined", time.Hour)},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: p.pool, MinVersion: tls.VersionTLS13,
	}
}

// Client is a proxy's side with the certificate of id ("-" for none at all).
func (p *PKI) Client(id string) *tls.Config {
	c := &tls.Config{RootCAs: p.pool, ServerName: ServerName, MinVersion: tls.VersionTLS13}
	if id != "-" {
		c.Certificates = []tls.Certificate{p.Leaf(id, time.Hour)}
	}
	return c
}

// ClientOf is Client with a certificate that says to which workload it was given.
func (p *PKI) ClientOf(id, workload string) *tls.Config {
	c := p.Client("-")
	c.Certificates = []tls.Certificate{p.leaf(id, time.Hour, mtls.WorkloadExtension(workload))}
	return c
}
