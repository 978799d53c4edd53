package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Istio's names in cacerts; a generated root is kept under the same ones.
const (
	fileRoot  = "root-cert.pem"
	fileCert  = "ca-cert.pem"
	fileKey   = "ca-key.pem"
	fileChain = "cert-chain.pem"

	maxFile = 1 << 20
)

// ErrPermissions refuses a secret that others may read.
var ErrPermissions = errors.New("ca: secret readable by others")

// authorityFiles is what a directory holds.
type authorityFiles struct {
	roots  []*x509.Certificate
	issuer issuer
}

// open loads the brought or the generated authority; the latter is made if Dir/ca
// is not there.
func open(o Options) (*authorityFiles, error) {
	if o.Brought != "" {
		// A mounted Kubernetes secret has its mode from the cluster: not ours to refuse.
		return load(o.Brought, false)
	}
	if o.Dir == "" {
		return nil, errors.New("ca: no state directory")
	}
	if err := privateDir(o.Dir); err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Dir, "ca")
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := generate(o, dir); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return load(dir, true)
}

// privateDir makes dir with mode 0700, or checks that only its owner can enter it.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("ca: state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("ca: state directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: directory %s has mode %04o: chmod 700 it", ErrPermissions, dir, info.Mode().Perm())
	}
	return nil
}

// generate makes a root in a directory beside dir and renames it: whoever looks
// sees a whole authority or none, and of two that start at once one wins and the
// other loads the winner's.
func generate(o Options, dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("ca: key of the root: %w", err)
	}
	td, err := spiffeid.TrustDomainFromString(o.TrustDomain)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	now := o.Now()
	root := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{td.Name()}, CommonName: "Seine root CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(o.RootTTL),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLen: 1, // one intermediate
		URIs: []*url.URL{{Scheme: "spiffe", Host: td.Name()}},
	}
	cert, err := (&issuer{cert: root, key: key}).sign(root, key.Public())
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("ca: key of the root: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".ca-") // mode 0700
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	defer os.RemoveAll(tmp) // gone already if the rename worked
	certPEM := appendPEM(nil, cert)
	for name, data := range map[string][]byte{
		fileKey:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		fileCert: certPEM, fileRoot: certPEM,
	} {
		if err := writeSecret(filepath.Join(tmp, name), data); err != nil {
			return err
		}
	}
	if err := syncDir(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, there := os.Stat(filepath.Join(dir, fileRoot)); there == nil {
			return nil // another one was first
		}
		return fmt.Errorf("ca: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

// writeSecret makes a new file of mode 0600 and waits until it is on disk.
func writeSecret(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("ca: %s: %w", dir, err)
	}
	return nil
}

// load reads a directory in Istio's layout and checks that it is one authority.
func load(dir string, private bool) (*authorityFiles, error) {
	roots, err := readCerts(filepath.Join(dir, fileRoot))
	if err != nil {
		return nil, err
	}
	certs, err := readCerts(filepath.Join(dir, fileCert))
	if err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, fileKey), private)
	if err != nil {
		return nil, err
	}
	chain, err := readCerts(filepath.Join(dir, fileChain))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f := &authorityFiles{roots: roots}
	f.issuer, err = newIssuer(certs[0], key, append(certs[1:], chain...), roots)
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", dir, err)
	}
	return f, nil
}

// newIssuer checks that key belongs to cert, that cert may sign, and finds its way
// to a root.
func newIssuer(cert *x509.Certificate, key crypto.Signer, others, roots []*x509.Certificate) (issuer, error) {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return issuer{}, fmt.Errorf("%s does not belong to %s", fileKey, fileCert)
	}
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return issuer{}, fmt.Errorf("%s may not sign certificates (CA:TRUE and keyCertSign are needed)", fileCert)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	for _, c := range others {
		between.AddCert(c)
	}
	// Whether it has expired is said apart, with its own error: look from a moment
	// at which it surely held.
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return issuer{}, fmt.Errorf("%s does not lead to %s: %w", fileCert, fileRoot, err)
	}
	way := chains[0]
	i := issuer{cert: cert, key: key, end: way[0].NotAfter, chain: way[:len(way)-1]}
	for _, c := range way {
		if c.NotAfter.Before(i.end) {
			i.end = c.NotAfter
		}
	}
	return i, nil
}

func readCerts(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(data)) > 0 {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("ca: %s: something else than PEM certificates in it", path)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("ca: %s: %w", path, err)
		}
		certs, data = append(certs, c), rest
	}
	if len(certs) == 0 && filepath.Base(path) != fileChain {
		return nil, fmt.Errorf("ca: %s: no certificate in it", path)
	}
	return certs, nil
}

func readKey(path string, private bool) (crypto.Signer, error) {
	if private {
		if err := checkSecret(path); err != nil {
			return nil, err
		}
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("ca: %s: not PEM", path)
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("ca: %s: PEM block %q is no private key", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("ca: %s: key type %T does not sign", path, key)
	}
	return signer, nil
}

// checkSecret refuses a secret file that anybody but its owner may read.
func checkSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("ca: %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %04o: chmod 600 it", ErrPermissions, path, info.Mode().Perm())
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("ca: %s is larger than %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return data, nil
}
