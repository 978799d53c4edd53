//go:build linux

package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// webCA is an authority that the mesh does not know: certificates with names.
type webCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM
}

func newWebCA(t *testing.T) *webCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	c, err = x509.ParseCertificate(der)
	must(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return &webCA{c, key, file}
}

// leaf is a certificate for name, and the files of it.
func (a *webCA) leaf(t *testing.T, name string) (pair tls.Certificate, certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	must(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, certPEM, 0o600))
	must(t, os.WriteFile(keyFile, keyPEM, 0o600))
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	must(t, err)
	return pair, certFile, keyFile
}

// TestOriginate begins TLS with a server that is not the mesh's, as a
// DestinationRule of mode SIMPLE or MUTUAL says.
func TestOriginate(t *testing.T) {
	ca, other := newWebCA(t), newWebCA(t)
	pair, _, _ := ca.leaf(t, "api.example.com")
	_, clientCert, clientKey := ca.leaf(t, "frontend")
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	serve := func(t *testing.T, config *tls.Config) netip.AddrPort {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := "nobody"
			if len(r.TLS.PeerCertificates) > 0 {
				who = r.TLS.PeerCertificates[0].Subject.CommonName
			}
			_, _ = io.WriteString(w, r.Proto+" "+r.TLS.ServerName+" "+who+" "+r.Host)
		}))
		s.TLS = config
		s.EnableHTTP2 = true
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return netip.MustParseAddrPort(s.Listener.Addr().String())
	}
	plain := &tls.Config{Certificates: []tls.Certificate{pair}}
	strict := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	for _, c := range []struct {
		name   string
		server *tls.Config
		host   string // of the service; "": billing's
		policy *seinev1.TrafficPolicy
		want   string // of the body; "": 503 UF
	}{
		{"SIMPLE, the service's host is the name", plain, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, "HTTP/1.1 api.example.com nobody billing:8080"},
		{"SIMPLE with sni", plain, "",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Sni: "api.example.com", Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, "HTTP/1.1 api.example.com nobody billing:8080"},
		{"SIMPLE with another name in subjectAltNames", plain, "",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, SubjectAltNames: []string{"x", "api.example.com"}, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, "HTTP/1.1 " + billing + " nobody billing:8080"},
		{"over HTTP/2", plain, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, H2Upgrade: seinev1.TrafficPolicy_H2_UPGRADE, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, "HTTP/2.0 api.example.com nobody billing:8080"},
		{"MUTUAL", strict, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_MUTUAL, Originate: &seinev1.OriginateTls{CaCertificates: ca.file, ClientCertificate: clientCert, PrivateKey: clientKey}}, "HTTP/1.1 api.example.com frontend billing:8080"},
		{"unverified, because somebody wrote so", plain, "wrong.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{InsecureSkipVerify: true}}, "HTTP/1.1 wrong.example.com nobody billing:8080"},

		{"another name", plain, "wrong.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, ""},
		{"none of subjectAltNames", plain, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, SubjectAltNames: []string{"x"}, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, ""},
		{"another authority", plain, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{CaCertificates: other.file}}, ""},
		{"no client certificate for a server that wants one", strict, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}, ""},
		{"a file that is not there", plain, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{CaCertificates: ca.file + ".gone"}}, ""},
		{"a mode without settings is refused, not plaintext", plain, "api.example.com",
			&seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := serve(t, c.server.Clone())
			tb := billingTable(t, []*seinev1.HttpRule{toBilling()}, endpoint("1", at, nil))
			tb.service[0].Policy = c.policy
			if c.host != "" {
				tb.service[0].Host = c.host
				tb.answers["http/8080/billing"].Http[0].Destinations[0].Host = c.host
				tb.eps[c.host+"/8080"] = tb.eps[billing+"/8080"]
			}
			p := start(t, Options{Loops: 1, Explicit: localhost(), Factory: newAuthority(t).factory(t, frontendID)}, tb.build())
			client := dial(t, p.Addresses()[0].String())
			for range 3 { // the second goes over the same connection
				res, body := client.get("/")
				if c.want == "" {
					if res.StatusCode != http.StatusServiceUnavailable {
						t.Fatalf("%s %q", res.Status, body)
					}
					continue
				}
				if res.StatusCode != http.StatusOK || body != c.want {
					t.Fatalf("%s %q, want %q", res.Status, body, c.want)
				}
			}
			if c.want == "" && strings.Contains(p.metrics(t), `response_code="200"`) {
				t.Error("something was answered")
			}
		})
	}
}

// TestOriginateOpaque does so for a connection that is no HTTP.
func TestOriginateOpaque(t *testing.T) {
	ca := newWebCA(t)
	pair, _, _ := ca.leaf(t, "db.example.com")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) { defer c.Close(); _, _ = io.Copy(c, c) }(c)
		}
	}()
	at := netip.MustParseAddrPort(l.Addr().String())
	const host = "db.example.com"
	dest := []*seinev1.Destination{{Host: host, Port: 5432, Weight: 1}}
	b := &tableOf{t: t, self: self(t, "frontend", frontendID, seinev1.MtlsMode_MTLS_STRICT),
		answers: map[string]*seinev1.Answer{"addr/10.9.9.9:5432": {Kind: seinev1.Answer_ROUTES, Service: host, Protocol: seinev1.Protocol_PROTOCOL_TCP,
			Tcp: []*seinev1.TcpRule{{Destinations: dest}}}},
		service: []*seinev1.Service{{Host: host, Name: "db", Namespace: "default", Port: 5432, Protocol: seinev1.Protocol_PROTOCOL_TCP,
			Policy: &seinev1.TrafficPolicy{Tls: seinev1.TrafficPolicy_SIMPLE, Originate: &seinev1.OriginateTls{CaCertificates: ca.file}}}},
		eps: map[string][]*seinev1.Endpoint{host + "/5432": {endpoint("1", at, nil)}},
	}
	f := &tables{}
	f.cur.Store(b.build())
	p := startWith(t, Options{Loops: 1, Outbound: localhost(), Factory: newAuthority(t).factory(t, frontendID)}, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.9.9.9:5432"), nil }
	})
	c := dial(t, p.Addresses()[0].String())
	c.write("plaintext of the application")
	got := make([]byte, 28)
	if _, err := io.ReadFull(c.r, got); err != nil || !strings.HasPrefix(string(got), "plaintext of the") {
		t.Fatalf("%q, %v", got, err)
	}
}
