package controlplane

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/config"
)

// TestReviewsAreBounded: what is held of bodies has a bound, for each address and for
// all, small ones pass whatever others hold, and nothing is held after.
func TestReviewsAreBounded(t *testing.T) {
	v := newReviews()
	ask := func(from string, size int) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/", io.LimitReader(neverEnding('x'), int64(size)))
		r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(from), 4711).String()
		v.handler(maxReview, func(w http.ResponseWriter, _ *http.Request, body []byte) {
			if len(body) != size {
				t.Errorf("%d bytes came, want %d", len(body), size)
			}
		}).ServeHTTP(w, r)
		return w.Code
	}
	if got := ask("10.0.0.1", maxReview); got != http.StatusOK {
		t.Errorf("the largest: %d", got)
	}
	if got := ask("10.0.0.1", maxReview+1); got != http.StatusRequestEntityTooLarge {
		t.Errorf("larger: %d", got)
	}
	if v.held != 0 || len(v.by) != 0 {
		t.Fatalf("%d bytes are held after, of %d addresses", v.held, len(v.by))
	}
	// One address has its share, and no more; others go on.
	one := netip.MustParseAddr("10.0.0.1")
	if !v.take(one, reviewShare) || v.take(one, 1) {
		t.Error("the share of an address is not what it has")
	}
	if got := ask("10.0.0.1", 1<<20); got != http.StatusServiceUnavailable {
		t.Errorf("beyond the share: %d", got)
	}
	if got := ask("10.0.0.2", 1<<20); got != http.StatusOK {
		t.Errorf("another address: %d", got)
	}
	// The room is full: small ones pass, of anybody.
	for _, a := range []string{"10.0.0.3", "10.0.0.4", "10.0.0.5"} {
		if !v.take(netip.MustParseAddr(a), reviewShare) {
			t.Fatal("the room is smaller than its shares")
		}
	}
	if got := ask("10.0.0.2", 1<<20); got != http.StatusServiceUnavailable {
		t.Errorf("no room: %d", got)
	}
	if got := ask("10.0.0.1", reviewOwn-1); got != http.StatusOK {
		t.Errorf("a small one: %d", got)
	}
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// TestOneAddressLeavesAValidationFree: while one address keeps the judge busy with
// all it asks, another's question is answered.
func TestOneAddressLeavesAValidationFree(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	h := validation(newReviews(), func(o *config.Object) (config.Findings, error) {
		if o.Name == "slow" {
			begun <- struct{}{}
			<-end
		}
		return nil, nil
	})
	ask := func(ctx context.Context, from, name string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", strings.NewReader(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE",
			"object":{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"`+name+`","namespace":"default"}}}}`))
		r.RemoteAddr = from + ":1"
		h.ServeHTTP(w, r)
		return w
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	for range 8 {
		go func() { ask(ctx, "10.0.0.1", "slow"); done <- struct{}{} }()
	}
	<-begun
	if w := ask(t.Context(), "10.0.0.2", "quick"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"allowed":true`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	cancel() // the rest gives up, or is judged
	go func() {
		for range begun {
		}
	}()
	close(end)
	for range 8 {
		<-done
	}
	close(begun)
}

// TestWebhookKnowsTheAPIServer: with a CA of the API server's nobody else is answered.
func TestWebhookKnowsTheAPIServer(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	world, _ := fakeCluster(t)
	ca, sign := clientAuthority(t)
	file := filepath.Join(dir, "client-ca.pem")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	address := freePort(t)
	i := start(t, dir, func(o *Options) {
		o.Cluster, o.Socket, o.Webhook, o.WebhookClientCA = world, "", address, file
		o.Log = slog.New(slog.DiscardHandler)
	})
	roots := x509.NewCertPool()
	bundle, err := os.ReadFile(filepath.Join(i.opt.State, RootFile))
	if err != nil || !roots.AppendCertsFromPEM(bundle) {
		t.Fatal(err)
	}
	ask := func(certs ...tls.Certificate) (int, error) {
		h := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			RootCAs: roots, ServerName: dnsName, Certificates: certs, MinVersion: tls.VersionTLS13,
		}}}
		r, err := h.Post("https://"+address+"/inject", "application/json", bytes.NewReader([]byte("{}")))
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		return r.StatusCode, nil
	}
	eventually(t, "the API server to be answered", func() bool {
		code, err := ask(sign("kube-apiserver"))
		return err == nil && code == http.StatusBadRequest // it asked nothing
	})
	if code, err := ask(); err == nil {
		t.Errorf("without a certificate: %d", code)
	}
	_, foreign := clientAuthority(t)
	if code, err := ask(foreign("kube-apiserver")); err == nil {
		t.Errorf("with a foreign certificate: %d", code)
	}
}

// TestWhoStandsBeforeTheAPI: outside a pod every user of the machine reaches the
// loopback address, and none of them may replace the root.
func TestWhoStandsBeforeTheAPI(t *testing.T) {
	for _, inPod := range []bool{false, true} {
		s := &server{opt: Options{Cluster: &Cluster{InPod: inPod}}}
		if got := s.doorOfAPI() == doorOwner; got != inPod {
			t.Errorf("in a pod %t: the owner's door %t", inPod, got)
		}
	}
}

// clientAuthority makes a CA as an administrator of an API server would.
func clientAuthority(t *testing.T) (bundle []byte, sign func(name string) tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "front"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), func(name string) tls.Certificate {
		t.Helper()
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, root, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
}
