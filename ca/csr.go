package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// maxCSR bounds a certificate request in bytes of PEM.
const maxCSR = 16 << 10

// checkCSR returns the public key of a CSR whose holder has shown to own it. Names
// in it must be absent or identity alone; every other wish (subject, extensions,
// usages) is ignored, as nothing but the key is taken.
func checkCSR(data []byte, identity string) (crypto.PublicKey, error) {
	if len(data) > maxCSR {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrCSR, len(data), maxCSR)
	}
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%w: not PEM", ErrCSR)
	}
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("%w: PEM block %.50q, CERTIFICATE REQUEST expected", ErrCSR, block.Type)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: more than one PEM block", ErrCSR)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	// The key before the signature: verifying with an enormous key costs.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
	default:
		return nil, fmt.Errorf("%w: signature algorithm %s", ErrCSR, csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: signature: %w", ErrCSR, err)
	}
	if len(csr.DNSNames)+len(csr.EmailAddresses)+len(csr.IPAddresses) > 0 {
		return nil, fmt.Errorf("%w: it asks for names beside the SPIFFE ID", ErrCSR)
	}
	if len(csr.URIs) > 1 || len(csr.URIs) == 1 && csr.URIs[0].String() != identity {
		return nil, fmt.Errorf("%w: it asks for %.200q, attested is %s", ErrCSR, fmt.Sprint(csr.URIs), identity)
	}
	return csr.PublicKey, nil
}

// checkKey allows what every peer of a mesh can verify: ECDSA P-256 and P-384, RSA
// from 2048 to 4096 bits. Not Ed25519: Envoy does not accept it by default.
func checkKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("%w: curve %s, P-256 or P-384 expected", ErrCSR, k.Curve.Params().Name)
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("%w: RSA key of %d bits, 2048 to 4096 expected", ErrCSR, n)
		}
		return nil
	default:
		return fmt.Errorf("%w: key type %T, ECDSA P-256 or P-384 or RSA expected", ErrCSR, key)
	}
}
