package mtls

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrRevoked: an authority has taken a certificate of the peer back.
	ErrRevoked = errors.New("certificate is revoked")
	// ErrRevocationList: a list of revoked certificates cannot be used, or there is
	// none of an authority in the chain. Nobody is believed without it.
	ErrRevocationList = errors.New("list of revoked certificates (caCrl)")
)

// revocations are lists of revoked certificates (RFC 5280 §5).
type revocations []*x509.RevocationList

// parseRevocations reads a list in DER, or any number of them in PEM.
func parseRevocations(data []byte) (revocations, error) {
	if block, _ := pem.Decode(data); block == nil {
		l, err := parseRevocation(data)
		return revocations{l}, err
	}
	var all revocations
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%w: not PEM behind %d lists", ErrRevocationList, len(all))
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("%w: PEM block %.50q, X509 CRL expected", ErrRevocationList, block.Type)
		}
		l, err := parseRevocation(block.Bytes)
		if err != nil {
			return nil, err
		}
		all, data = append(all, l), rest
	}
	return all, nil
}

func parseRevocation(der []byte) (*x509.RevocationList, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRevocationList, err)
	}
	// RFC 5280 §5.2, §5.3: what says with a critical extension that it is only a part
	// of a list, or another authority's, says nothing to who does not know how to read it.
	for _, e := range l.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("%w: critical extension %s: only whole lists of the issuer itself are read", ErrRevocationList, e.Id)
		}
	}
	for _, r := range l.RevokedCertificateEntries {
		for _, e := range r.Extensions {
			if e.Critical {
				return nil, fmt.Errorf("%w: critical extension %s of an entry: only whole lists of the issuer itself are read", ErrRevocationList, e.Id)
			}
		}
	}
	return l, nil
}

// check looks at every certificate of a verified chain but the root, as Envoy does:
// there must be a list of its issuer that is signed by it and valid now, and none
// that names it.
func (rs revocations) check(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:len(chain)-1] {
		if err := rs.checkOne(c, chain[i+1], now); err != nil {
			return err
		}
	}
	return nil
}

func (rs revocations) checkOne(c, issuer *x509.Certificate, now time.Time) error {
	why := fmt.Errorf("%w: there is none of %s", ErrRevocationList, headerSafe(issuer.Subject.String()))
	looked := false
	for _, l := range rs {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
			continue
		}
		if err := l.CheckSignatureFrom(issuer); err != nil {
			if !looked {
				why = fmt.Errorf("%w: that of %s: %w", ErrRevocationList, headerSafe(issuer.Subject.String()), err)
			}
			continue
		}
		for i := range l.RevokedCertificateEntries {
			if l.RevokedCertificateEntries[i].SerialNumber.Cmp(c.SerialNumber) == 0 {
				return fmt.Errorf("%w: serial number %x of %s", ErrRevoked, c.SerialNumber, headerSafe(issuer.Subject.String()))
			}
		}
		switch {
		case now.Before(l.ThisUpdate):
			why = fmt.Errorf("%w: that of %s holds from %s", ErrRevocationList, headerSafe(issuer.Subject.String()), l.ThisUpdate.UTC().Format(time.RFC3339))
		case l.NextUpdate.IsZero():
			why = fmt.Errorf("%w: that of %s does not say until when it holds", ErrRevocationList, headerSafe(issuer.Subject.String()))
		case now.After(l.NextUpdate):
			why = fmt.Errorf("%w: that of %s ended at %s: put a newer one into the file", ErrRevocationList, headerSafe(issuer.Subject.String()), l.NextUpdate.UTC().Format(time.RFC3339))
		default:
			looked = true
		}
	}
	if looked {
		return nil
	}
	return why
}

// checkAny is check of the chains that were found, of which one has to be good.
func (rs revocations) checkAny(chains [][]*x509.Certificate, now time.Time) error {
	err := fmt.Errorf("%w: no verified chain", ErrRevocationList)
	for _, chain := range chains {
		if err = rs.check(chain, now); err == nil {
			return nil
		}
	}
	return err
}
