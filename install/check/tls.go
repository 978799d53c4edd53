package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/ca/rotation"
	"github.com/seinemesh/seine/cluster"
)

// Ports of seined.
const (
	portDiscovery = 15012
	portWebhook   = 15017
)

// brought is the Secret of an authority that somebody keeps for the mesh.
const brought = "cacerts"

// maxAnswer bounds what is read of the API's answer.
const maxAnswer = 64 << 20

// served returns the certificate that a port of seined serves, if bundle
// verifies it for the Service's name.
func (c *Checker) served(ctx context.Context, pod string, port int, bundle []byte) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, errors.New("the bundle holds no certificate")
	}
	conn, err := cluster.Forward(ctx, c.Config, c.Namespace, pod, port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// a forwarded connection knows no deadlines
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	t := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: c.name("seined") + "." + c.Namespace + ".svc", MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Time: c.Now})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return t.ConnectionState().PeerCertificates[0], nil
}

// judgeHandshake says what a failed handshake tells.
func judgeHandshake(err error) (Status, string, string) {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return Failed, "its certificate is not of the root that is published: " + err.Error(), "seined publishes the new root within a minute; otherwise restart it (kubectl rollout restart)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Failed, "its certificate is out of date: " + err.Error(), "is the clock right? seined renews it long before: kubectl logs says why it could not"
	case errors.As(err, &host):
		return Failed, "its certificate is for another name: " + err.Error(), "is this the right --revision and namespace?"
	}
	return Unknown, err.Error(), "may you create pods/portforward there?"
}

// certificates looks at the mesh's roots and at what discovery serves.
func (c *Checker) certificates(ctx context.Context, pods []string) {
	bundle, err := c.roots(ctx)
	if err != nil {
		if errors.Is(err, errNoRoots) {
			c.line(Unknown, "roots", err.Error(), "label a namespace seine.dev/inject=enabled")
		} else {
			c.asked("roots", err)
		}
		return
	}
	certs := parse(bundle)
	if len(certs) == 0 {
		c.line(Failed, "roots", "ConfigMap seine-ca-root holds no certificate", "delete it: seined writes it anew")
		return
	}
	authority := &rotation.Status{}
	if len(pods) > 0 {
		if err := c.ask(ctx, pods[0], "/api/v1/ca", authority); err != nil {
			c.line(Unknown, "authority", err.Error(), "may you create pods/portforward in "+c.Namespace+"?")
		}
	}
	mend := "seine ca rotate brings in a new root without an interruption"
	if strings.HasSuffix(authority.Source, "/"+brought) {
		mend = "it was brought: replace it in " + authority.Source + ", and seined brings the new one in without an interruption"
	}
	for i, cert := range certs {
		name := "root"
		if len(certs) > 1 {
			name = fmt.Sprintf("root %d of %d", i+1, len(certs))
		}
		c.line(judgeRoot(name, cert, c.Now(), mend))
	}
	for _, f := range authority.Findings {
		if !strings.HasPrefix(f, "root ") { // those are in the bundle
			c.line(Warning, "authority", f, "seine ca status says more")
		}
	}
	if s := authority.Rotation.Step; s != rotation.Stable {
		c.line(Warning, "rotation of the root", fmt.Sprintf("step %s since %s: %s", s, authority.Rotation.Since.Format(time.DateTime), authority.Waiting), "it goes on by itself; seine ca rotate --now does not wait for proxies that are not connected")
	}
	for _, pod := range pods {
		leaf, err := c.served(ctx, pod, portDiscovery, bundle)
		if err != nil {
			status, detail, mend := judgeHandshake(err)
			c.line(status, "certificate of "+pod, "port 15012: "+detail, mend)
			continue
		}
		c.line(judgeLeaf("certificate of "+pod, leaf, c.Now()))
	}
}

// roots are the trust bundle that seined publishes.
func (c *Checker) roots(ctx context.Context) ([]byte, error) {
	list, err := c.Cluster.Kube.CoreV1().ConfigMaps(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=seine-ca-root"})
	if err != nil {
		return nil, err
	}
	for _, m := range list.Items {
		if b := m.Data["root-cert.pem"]; b != "" {
			return []byte(b), nil
		}
	}
	return nil, errNoRoots
}

func parse(bundle []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return certs
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
}

const day = 24 * time.Hour

// judgeRoot warns 30 days before a root ends, and fails 7 days before: to change
// it, every proxy must first have learnt the next one.
func judgeRoot(name string, cert *x509.Certificate, now time.Time, mend string) (Status, string, string, string) {
	left := cert.NotAfter.Sub(now)
	detail := fmt.Sprintf("%s, ends %s", cert.Subject, cert.NotAfter.Format(time.DateOnly))
	switch {
	case now.Before(cert.NotBefore):
		return Failed, name, detail + ": it is not valid yet", "a clock is wrong: compare the nodes' clocks"
	case left <= 0:
		return Failed, name, detail + ": it has ended, no certificate is trusted any more", mend
	case left < 7*day:
		return Failed, name, fmt.Sprintf("%s, in %d days", detail, left/day), mend
	case left < 30*day:
		return Warning, name, fmt.Sprintf("%s, in %d days", detail, left/day), mend
	}
	return OK, name, detail, ""
}

// judgeLeaf warns when a certificate that should have been renewed at two thirds
// of its life has not been at five sixths.
func judgeLeaf(name string, cert *x509.Certificate, now time.Time) (Status, string, string, string) {
	life, left := cert.NotAfter.Sub(cert.NotBefore), cert.NotAfter.Sub(now)
	detail := "verified, ends " + cert.NotAfter.Format(time.DateTime)
	switch {
	case left <= 0:
		return Failed, name, "ended " + cert.NotAfter.Format(time.DateTime), "seined could not renew it: kubectl logs says why"
	case left < life/6:
		return Warning, name, detail + ": overdue for renewal", "kubectl logs of seined says why it was not renewed"
	}
	return OK, name, detail, ""
}

// connected asks one replica for its proxies.
func (c *Checker) connected(ctx context.Context, pod string) (list []proxy, err error) {
	err = c.ask(ctx, pod, "/api/v1/proxies", &list)
	return list, err
}

// ask reads an answer of one replica's API.
func (c *Checker) ask(ctx context.Context, pod, path string, into any) error {
	client := cluster.Client(c.Config, c.Namespace, pod, each)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://seined"+path, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", pod, err)
	}
	defer res.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: its answer breaks off: %w", pod, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %.200s", pod, res.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: its answer to %s is not understood: %w; is it of the same version as this program?", pod, path, err)
	}
	return nil
}
