package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Identities of the two sides, the same for every data plane.
const (
	clientID   = "spiffe://cluster.local/ns/default/sa/frontend"
	serverID   = "spiffe://cluster.local/ns/default/sa/billing"
	serverName = "billing-service.default.svc.cluster.local"
)

// writePKI puts ca.pem and, for client and server, NAME.crt, NAME.key and
// NAME.pem (both in one, as HAProxy wants it) into dir: ECDSA P-256, as sidecars
// have. The names are in the URI; the DNS name is for peers that check no URI.
func writePKI(dir string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"bench"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return err
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, "ca.pem"), block("CERTIFICATE", der)); err != nil {
		return err
	}
	for i, side := range []struct{ name, id, dns string }{{"client", clientID, "frontend"}, {"server", serverID, serverName}} {
		uri, err := url.Parse(side.id)
		if err != nil {
			return err
		}
		leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 2), NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			Subject: pkix.Name{CommonName: side.dns},
			URIs:    []*url.URL{uri}, DNSNames: []string{side.dns},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), key)
		if err != nil {
			return err
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
		if err != nil {
			return err
		}
		crt, private := block("CERTIFICATE", der), block("PRIVATE KEY", keyDER)
		base := filepath.Join(dir, side.name)
		if err := errors.Join(writePEM(base+".crt", crt), writePEM(base+".key", private), writePEM(base+".pem", append(crt, private...))); err != nil {
			return err
		}
	}
	return nil
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writePEM(path string, b []byte) error { return os.WriteFile(path, b, 0o600) }
