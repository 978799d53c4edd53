package mtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxBundle bounds a trust bundle in bytes of PEM.
const maxBundle = 1 << 20

// ParseBundle reads PEM with certificates and nothing else; at least one.
func ParseBundle(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("larger than %d bytes", maxBundle)
	}
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %.50q, CERTIFICATE expected", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs, data = append(certs, cert), rest
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}

// BundleID names a set of roots: the same certificates have the same name
// everywhere, in whatever order they come.
func BundleID(roots ...*x509.Certificate) string {
	sums := make([]string, len(roots))
	for i, r := range roots {
		sum := sha256.Sum256(r.Raw)
		sums[i] = string(sum[:])
	}
	slices.Sort(sums)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(sums), "")))
	return hex.EncodeToString(sum[:8])
}

// LeadsTo says whether a chain, leaf first, is vouched for by one of roots at a moment.
func LeadsTo(chain []*x509.Certificate, now time.Time, roots ...*x509.Certificate) bool {
	if len(chain) == 0 {
		return false
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	for _, c := range chain[1:min(len(chain), maxChain)] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

func sameRoots(a, b map[string][]*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for td, roots := range a {
		if other, ok := b[td]; !ok || BundleID(roots...) != BundleID(other...) {
			return false
		}
	}
	return true
}
