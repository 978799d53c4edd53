//go:build linux

package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// app2 is an application that speaks HTTP/1.1 and HTTP/2 without TLS.
func app2(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return netip.MustParseAddrPort(l.Addr().String())
}

// client2 speaks HTTP/2 with prior knowledge to a proxy port, whatever the URL says.
func client2(t testing.TB, addr string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// speaks gives the pair's service a protocol.
func speaks(t testing.TB, p seinev1.Protocol, app netip.AddrPort, edit func(client, server *Options)) *pair {
	t.Helper()
	return startPairOf(t, app, p, &seinev1.TrafficPolicy{}, nil, edit)
}

// startPairOf is startPair for a service and port of that protocol.
func startPairOf(t testing.TB, app netip.AddrPort, protocol seinev1.Protocol, policy *seinev1.TrafficPolicy, rules []*seinev1.HttpRule, edit func(client, server *Options)) *pair {
	t.Helper()
	ca := newAuthority(t)
	so := Options{Loops: 1, Forwards: []Forward{{Listen: localhost(), App: app, Port: 8080}}, Factory: ca.factory(t, billingID)}
	co := Options{Loops: 1, Explicit: localhost(), Factory: ca.factory(t, frontendID)}
	if edit != nil {
		edit(&co, &so)
	}
	server := start(t, so, (&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_STRICT, &seinev1.InboundPort{
		Port: 8080, Protocol: protocol, Mtls: seinev1.MtlsMode_MTLS_STRICT,
		Service: billing, ServiceName: "billing", ServiceNamespace: "default", ServicePort: 8080,
	})}).build())
	if rules == nil {
		rules = []*seinev1.HttpRule{toBilling()}
	}
	table := billingTable(t, rules, endpoint("1", server.Addresses()[0], workload("billing", billingID)))
	table.service[0].Protocol, table.service[0].Policy = protocol, policy
	client := start(t, co, table.build())
	return &pair{ca: ca, client: client, server: server, addr: client.Addresses()[0].String()}
}

func get2(t testing.TB, c *http.Client, path string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get("http://billing:8080" + path)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return res, string(body)
}

// TestVersions: every combination of what a client speaks and what the upstream
// is spoken to, through one proxy and through a pair.
func TestVersions(t *testing.T) {
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_DETECT, seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC} {
		for _, version := range []int{1, 2} {
			t.Run(fmt.Sprintf("%v from HTTP/%d", protocol, version), func(t *testing.T) {
				at := app2(t, func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					w.Header().Set("X-Proto", r.Proto)
					w.Header().Set("X-Xfcc", r.Header.Get("x-forwarded-client-cert"))
					fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
				})
				p := speaks(t, protocol, at, nil)
				c := client2(t, p.addr)
				if version == 1 {
					c = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", p.addr)
					}}, Timeout: 20 * time.Second}
					t.Cleanup(c.CloseIdleConnections)
				}
				want := "HTTP/1.1"
				if protocol == seinev1.Protocol_PROTOCOL_HTTP2 || protocol == seinev1.Protocol_PROTOCOL_GRPC || protocol == seinev1.Protocol_PROTOCOL_DETECT && version == 2 {
					want = "HTTP/2.0"
				}
				big := strings.Repeat("0123456789", 50_000)
				for i := range 3 {
					res, body := get2(t, c, "/pay?id=7")
					if res.StatusCode != 200 || body != "GET /pay?id=7 " || res.Header.Get("X-Proto") != want || !strings.Contains(res.Header.Get("X-Xfcc"), frontendID) {
						t.Fatalf("%d: %v %q", i, res, body)
					}
					for name, r := range map[string]io.Reader{"length": strings.NewReader(big), "chunked": io.MultiReader(strings.NewReader(big))} {
						res, err := c.Post("http://billing:8080/x", "text/plain", r)
						must(t, err)
						body, err := io.ReadAll(res.Body)
						must(t, err)
						res.Body.Close()
						if res.StatusCode != 200 || string(body) != "POST /x "+big {
							t.Fatalf("%s: %v, %d bytes", name, res, len(body))
						}
					}
				}
			})
		}
	}
}

// TestNoContent: answers without content stay so from every version to every other.
func TestNoContent(t *testing.T) {
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2} {
		at := app2(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(204)
			case "/304":
				w.Header().Set("Etag", `"1"`)
				w.WriteHeader(304)
			case "/length":
				w.Header().Set("Content-Length", "5")
				if r.Method != "HEAD" {
					fmt.Fprint(w, "12345")
				}
			case "/chunks":
				for range 3 {
					fmt.Fprint(w, "abc")
					w.(http.Flusher).Flush()
				}
			case "/hints":
				w.Header().Set("Link", "</a>")
				w.WriteHeader(103)
				w.WriteHeader(200)
			}
		})
		p := speaks(t, protocol, at, nil)
		one := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.addr)
		}}, Timeout: 20 * time.Second}
		t.Cleanup(one.CloseIdleConnections)
		for version, c := range map[string]*http.Client{"1": one, "2": client2(t, p.addr)} {
			for _, k := range []struct {
				method, path, body string
				status             int
			}{
				{"GET", "/204", "", 204}, {"GET", "/304", "", 304}, {"GET", "/empty", "", 200}, {"GET", "/length", "12345", 200},
				{"HEAD", "/length", "", 200}, {"HEAD", "/chunks", "", 200}, {"GET", "/chunks", "abcabcabc", 200}, {"GET", "/hints", "", 200},
				{"DELETE", "/empty", "", 200}, {"OPTIONS", "/empty", "", 200},
			} {
				req, err := http.NewRequest(k.method, "http://billing:8080"+k.path, nil)
				must(t, err)
				res, err := c.Do(req)
				if err != nil {
					t.Errorf("HTTP/%s to %v: %s %s: %v", version, protocol, k.method, k.path, err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != k.status || string(body) != k.body || k.method == "HEAD" && k.path == "/length" && res.ContentLength != 5 {
					t.Errorf("HTTP/%s to %v: %s %s: %s, %q, length %d, %v", version, protocol, k.method, k.path, res.Status, body, res.ContentLength, err)
				}
			}
		}
	}
}

// TestPlainConnectionIsKept: an HTTP/2 client's requests share the connection to
// an application of HTTP/1.1, one after the other.
func TestPlainConnectionIsKept(t *testing.T) {
	var mu sync.Mutex
	from := map[string]bool{}
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		from[r.RemoteAddr] = true
		fmt.Fprint(w, "well")
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP, at, nil)
	c := client2(t, p.addr)
	for range 10 {
		if _, body := get2(t, c, "/"); body != "well" {
			t.Fatal(body)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 1 {
		t.Errorf("%d connections", len(from))
	}
	held := make(chan int)
	w := p.client.workers[0]
	w.loop.Post(func() {
		open := 0
		for _, k := range w.pools {
			open += k.open
		}
		held <- open
	})
	if n := <-held; n != 1 {
		t.Errorf("%d connections between the sidecars", n)
	}
}

// TestLargeContent: content far beyond every window and buffer passes whole in
// both directions, also to a client that reads in fits and starts.
func TestLargeContent(t *testing.T) {
	for _, protocol := range []seinev1.Protocol{seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2} {
		at := app2(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.Copy(w, r.Body)
		})
		p := speaks(t, protocol, at, nil)
		c := client2(t, p.addr)
		want := make([]byte, 16<<20)
		_, _ = rand.Read(want)
		pr, pw := io.Pipe()
		go func() {
			for b := want; len(b) > 0; {
				n := min(len(b), 100_001)
				if _, err := pw.Write(b[:n]); err != nil {
					return
				}
				b = b[n:]
			}
			_ = pw.Close()
		}()
		res, err := c.Post("http://billing:8080/", "application/octet-stream", pr)
		must(t, err)
		got, buf := sha256.New(), make([]byte, 1<<20)
		for n := uint32(1); ; {
			k, err := io.ReadFull(res.Body, buf[:1+n%uint32(len(buf))])
			got.Write(buf[:k])
			if n = n*7 + 31; err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF {
					t.Fatal(err)
				}
				break
			}
		}
		res.Body.Close()
		if sum := sha256.Sum256(want); fmt.Sprintf("%x", got.Sum(nil)) != fmt.Sprintf("%x", sum) {
			t.Errorf("%v: what came back is not what was sent", protocol)
		}
	}
}

// TestManyStreams: one connection of a client carries many exchanges at once.
func TestManyStreams(t *testing.T) {
	at := app2(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	p := speaks(t, seinev1.Protocol_PROTOCOL_HTTP2, at, nil)
	c := client2(t, p.addr)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for j := range 10 {
				want := strings.Repeat(fmt.Sprintf("%d/%d ", i, j), 1+j*1000)
				res, err := c.Post("http://billing:8080/", "text/plain", strings.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(got) != want {
					t.Errorf("%d bytes for %d: %v", len(got), len(want), err)
				}
			}
		})
	}
	all.Wait()
}
