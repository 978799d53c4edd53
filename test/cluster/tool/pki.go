package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// authority is a certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCA(cn string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	return &authority{c, key, pemBlock("CERTIFICATE", der)}, err
}

// issue returns a certificate and key, both PEM, for servers and clients alike.
func (c *authority) issue(cn string, orgs, sans []string) (crt, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cn, Organization: orgs},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, k.Public(), c.key)
	if err != nil {
		return nil, nil, err
	}
	return pemBlock("CERTIFICATE", der), keyPEM(k), nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}

func pemBlock(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func keyPEM(k *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		panic(err) // never for a curve that this package chose
	}
	return pemBlock("EC PRIVATE KEY", der)
}

// pki writes the authorities, certificates and kubeconfigs of a cluster into
// -dir, unless they are there. The arguments are its nodes: NAME=IP[,IP…].
func pki(args []string) error {
	fs := flag.NewFlagSet("pki", flag.ExitOnError)
	dir := fs.String("dir", "", "output directory")
	service := fs.String("service-ip", "", "ClusterIP of the kubernetes Service")
	server := fs.String("server", "", "API server URL for the kubeconfigs")
	fs.Parse(args)

	if _, err := os.Stat(filepath.Join(*dir, "admin.kubeconfig")); err == nil {
		return nil
	}
	u, err := url.Parse(*server)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	root, err := newCA("kubernetes-ca")
	if err != nil {
		return err
	}
	front, err := newCA("front-proxy-ca")
	if err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	accountsPub, err := x509.MarshalPKIXPublicKey(accounts.Public())
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": root.pem, "ca.key": keyPEM(root.key), "front-proxy-ca.crt": front.pem,
		"sa.key": keyPEM(accounts), "sa.pub": pemBlock("PUBLIC KEY", accountsPub),
	}
	type cert struct {
		file, cn   string
		orgs, sans []string
		ca         *authority
		kubeconfig bool
	}
	certs := []cert{
		{"apiserver", "kube-apiserver", nil, []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", *service, u.Hostname()}, root, false},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil, root, false},
		{"front-proxy-client", "front-proxy-client", nil, nil, front, false},
		{"admin", "kubernetes-admin", []string{"system:masters"}, nil, root, true},
		{"controller-manager", "system:kube-controller-manager", nil, nil, root, true},
		{"scheduler", "system:kube-scheduler", nil, nil, root, true},
		{"proxy", "system:kube-proxy", nil, nil, root, true},
	}
	for _, node := range fs.Args() {
		name, ips, ok := strings.Cut(node, "=")
		if !ok {
			return fmt.Errorf("node %q: want NAME=IP[,IP…]", node)
		}
		sans := append([]string{name, "127.0.0.1"}, strings.Split(ips, ",")...)
		certs = append(certs, cert{name, "system:node:" + name, []string{"system:nodes"}, sans, root, true})
	}
	for _, c := range certs {
		crt, key, err := c.ca.issue(c.cn, c.orgs, c.sans)
		if err != nil {
			return fmt.Errorf("issue %s: %w", c.file, err)
		}
		files[c.file+".crt"], files[c.file+".key"] = crt, key
		if c.kubeconfig {
			files[c.file+".kubeconfig"] = kubeconfig(*server, c.cn, root.pem, crt, key)
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(*dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func kubeconfig(server, user string, ca, crt, key []byte) []byte {
	b := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: seine
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %q
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: seine
  context: {cluster: seine, user: %q}
current-context: seine
`, server, b(ca), user, b(crt), b(key), user)
}
