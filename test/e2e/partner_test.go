//go:build e2e

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// partners is a mesh with a customer in it, and a partner outside, who wants
// TLS. The customer speaks plaintext to api.partner.test, TLS of its own to
// a.partner.test, which is sent to b.partner.test, and an opaque protocol to
// raw.partner.test, which is told who calls. The partner calls the customer as a
// load balancer does.
const partners = `
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: partner, labels: {app: partner}, annotations: {sidecar.istio.io/inject: "false"}}
spec:
  command: [e2e]
  env: {SEINE_E2E_ROLE: partner, DIR: "DIR"}
  ports: [8443, 8444, 8445, 9000]
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: customer, labels: {app: customer}, annotations: {seine.dev/proxy-protocol: "8080"}}
spec:
  command: [e2e]
  serviceAccount: customer
  env: {SEINE_E2E_ROLE: customer, DIR: "DIR"}
  ports: [8080]
---
apiVersion: v1
kind: Service
metadata: {name: customer}
spec: {clusterIP: None, selector: {app: customer}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: inner}
spec: {selector: {app: customer}, ports: [{name: http, port: 8090}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: customer}
spec:
  workloadSelector: {labels: {app: customer}}
  ingress: [{port: {number: 8090, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:8099"}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.partner.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: partner}}
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api.partner.test, trafficPolicy: {tls: {mode: MUTUAL, credentialName: partner}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.partner.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: partner}}
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8444}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b}
spec:
  hosts: [b.partner.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: partner}}
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8445}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.partner.test]
  tls:
  - match: [{port: 443, sniHosts: [a.partner.test]}]
    route: [{destination: {host: b.partner.test, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: raw}
spec:
  hosts: [raw.partner.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: partner}}
  ports: [{number: 9000, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: raw}
spec: {host: raw.partner.test, trafficPolicy: {proxyProtocol: {version: V1}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: customer}
spec:
  selector: {matchLabels: {app: customer}}
  rules:
  - from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]
    to: [{operation: {paths: [/]}}]
  - from: [{source: {principals: [cluster.local/ns/default/sa/customer]}}]
`

// TestPartner runs TLS origination with a Secret, SNI routes and the PROXY
// protocol between real sidecars.
func TestPartner(t *testing.T) {
	us := users()
	u := us[len(us)-1] // the ordinary one
	keys, err := os.MkdirTemp("", "seine-partner-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(keys) })
	issue(t, keys)
	own(t, keys, u)
	m := start(t, u, func(dir string) {
		for _, name := range []string{"mesh.yaml", "services.yaml", "workloads.yaml"} {
			must(t, os.Remove(filepath.Join(dir, name)))
		}
		must(t, os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(strings.ReplaceAll(partners, "DIR\"", keys+"\"")), 0o644))
	}, "--credentials", filepath.Join(keys, "credentials"))
	for _, c := range []struct{ what, log, line string }{
		{"the sidecar begins mutual TLS with the Secret's certificate", "default.customer-1", "api: 200 client=customer host=api.partner.test\n"},
		{"TLS of the application's own goes where its SNI is routed", "default.customer-1", "sni: 8445 asked=a.partner.test\n"},
		{"the partner is told who calls", "default.customer-1", "raw: PROXY TCP4 10.244."},
		{"and who is behind a load balancer is told to the customer", "default.partner-1", "intro: 203.0.113.9\n"},
		{"who may do so on one path alone", "default.partner-1", "intro /admin: 403 RBAC: access denied\n"},
		{"a Sidecar leads a port to where the application listens for itself", "default.customer-1", "inner: 200 127.0.0.1:8099\n"},
		{"where the customer itself may do everything", "default.customer-1", "own: 200\n"},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := m.in(t)
			m.await(c.what, func() error {
				if said := m.log(c.log); !strings.Contains(said, c.line) {
					return fmt.Errorf("%s said: %.2000s", c.log, said)
				}
				return nil
			})
		})
	}
	m.interrupt()
}

// issue makes the partner's authority and certificates below dir, and the Secret
// that the customer has of it, with the keys that Istio takes in a generic one.
func issue(t *testing.T, dir string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	must(t, err)
	credential := filepath.Join(dir, "credentials", "partner")
	must(t, os.MkdirAll(credential, 0o700))
	write := func(path, kind string, der []byte) {
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(filepath.Join(dir, "ca.pem"), "CERTIFICATE", der)
	write(filepath.Join(credential, "cacert"), "CERTIFICATE", der)
	leaf := func(cert, private, name string, hosts ...string) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: hosts, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := x509.CreateCertificate(rand.Reader, c, root, own.Public(), key)
		must(t, err)
		write(cert, "CERTIFICATE", der)
		der, err = x509.MarshalECPrivateKey(own)
		must(t, err)
		write(private, "EC PRIVATE KEY", der)
	}
	leaf(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"), "server", "api.partner.test", "a.partner.test")
	leaf(filepath.Join(credential, "cert"), filepath.Join(credential, "key"), "customer")
}

func roots() *x509.CertPool {
	pool := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(os.Getenv("DIR"), "ca.pem"))
	if err != nil || !pool.AppendCertsFromPEM(text) {
		fmt.Fprintln(os.Stderr, "no roots:", err)
		os.Exit(1)
	}
	return pool
}

// partner serves TLS that asks for a certificate on 8443, TLS on 8444 and 8445,
// and on 9000 whatever a connection begins with; and calls the customer.
func partner() int {
	dir := os.Getenv("DIR")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	api := &http.Server{Addr: ":8443", TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots()},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "client=%s host=%s", r.TLS.PeerCertificates[0].Subject.CommonName, r.Host)
		})}
	go func() { fmt.Fprintln(os.Stderr, api.ListenAndServeTLS("", "")) }()
	for _, port := range []string{"8444", "8445"} {
		go serve(port, func(c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
			if s.Handshake() == nil {
				fmt.Fprintf(s, "%s asked=%s\n", port, s.ConnectionState().ServerName)
			}
			s.Close()
		})
	}
	go serve("9000", func(c net.Conn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		fmt.Fprint(c, line)
	})
	for range time.Tick(200 * time.Millisecond) {
		fmt.Println("intro:", introduced("/"))
		fmt.Println("intro /admin:", introduced("/admin"))
	}
	return 0
}

func serve(port string, f func(net.Conn)) {
	l, err := net.Listen("tcp", ":"+port)
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(5 * time.Second))
				f(c)
			}()
		}
	}
	fmt.Fprintln(os.Stderr, err)
}

// introduced calls the customer with a PROXY header, and tells whom it saw.
func introduced(path string) string {
	c, err := net.DialTimeout("tcp4", "customer:8080", 2*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintf(c, "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nGET %s HTTP/1.1\r\nHost: customer\r\nConnection: close\r\n\r\n", path)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode != 200 {
		return fmt.Sprint(res.StatusCode, " ", string(body))
	}
	return fmt.Sprint(string(body), text(err))
}

func text(err error) string {
	if err != nil {
		return " " + err.Error()
	}
	return ""
}

// customer serves who calls it, and calls the partner in its three ways.
func customer() int {
	go func() {
		fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Header.Get("X-Forwarded-For"))
		})))
	}()
	go func() {
		fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:8099", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Context().Value(http.LocalAddrContextKey))
		})))
	}()
	trust := roots()
	client := &http.Client{Timeout: 2 * time.Second}
	for range time.Tick(200 * time.Millisecond) {
		fmt.Println("api:", fetched(client))
		if res, err := client.Get("http://inner:8090/"); err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			fmt.Printf("inner: %d %s\n", res.StatusCode, body)
		}
		if res, err := client.Get("http://customer:8080/admin"); err == nil {
			res.Body.Close()
			fmt.Println("own:", res.StatusCode)
		}
		fmt.Println("sni:", dialled("a.partner.test:443", func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{ServerName: "a.partner.test", RootCAs: trust})
		}, ""))
		fmt.Println("raw:", dialled("raw.partner.test:9000", func(c net.Conn) net.Conn { return c }, "hello\n"))
	}
	return 0
}

func fetched(client *http.Client) string {
	res, err := client.Get("http://api.partner.test/")
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(string(body)), text(err))
}

func dialled(to string, wrap func(net.Conn) net.Conn, say string) string {
	raw, err := net.DialTimeout("tcp4", to, 2*time.Second)
	if err != nil {
		return err.Error()
	}
	c := wrap(raw)
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if say != "" {
		fmt.Fprint(c, say)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}
