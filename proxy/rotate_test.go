//go:build linux

package proxy

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mtls"
)

// TestRotation: certificates change all the time on both sides; standing
// connections go on, new ones are made, nothing fails.
func TestRotation(t *testing.T) {
	ca := newAuthority(t)
	client, server := ca.source(t, frontendID), ca.source(t, billingID)
	p := startPair(t, app(t, echo), nil, func(c, s *Options) {
		c.Factory, s.Factory = mtls.NewFactory(client, mtls.Options{}), mtls.NewFactory(server, mtls.Options{})
		c.UpstreamIdle = 1 // no connection is kept: each request shakes hands
	})
	standing := dial(t, p.addr)
	standing.get("/")
	var stop atomic.Bool
	var rotations atomic.Int32
	var all, load sync.WaitGroup
	all.Add(1)
	go func() {
		defer all.Done()
		for !stop.Load() {
			if err := client.Set(ca.identity(t, frontendID)); err != nil {
				t.Error(err)
			}
			if err := server.Set(ca.identity(t, billingID)); err != nil {
				t.Error(err)
			}
			rotations.Add(1)
		}
	}()
	for range 4 {
		c := dial(t, p.addr)
		load.Add(1)
		go func() {
			defer load.Done()
			for range 100 {
				_, err := io.WriteString(c.TCPConn, "GET / HTTP/1.1\r\nHost: billing:8080\r\n\r\n")
				res, rerr := http.ReadResponse(c.r, nil)
				if err != nil || rerr != nil || res.StatusCode != 200 {
					t.Error(res, err, rerr)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
			}
		}()
	}
	load.Wait()
	stop.Store(true)
	all.Wait()
	if res, _ := standing.get("/"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	t.Log(rotations.Load(), "rotations")
}

// TestOpaqueChaos: opaque bytes arrive as they were sent, in both directions,
// however they are cut, and nothing is left afterwards.
func TestOpaqueChaos(t *testing.T) {
	at := rawApp(t, func(c net.Conn) {
		// Answers with as many bytes as it got, and their hash at the end.
		h := sha256.New()
		buf := make([]byte, 20_000)
		for {
			n, err := c.Read(buf)
			h.Write(buf[:n])
			if n > 0 {
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				break
			}
		}
		_, _ = c.Write(h.Sum(nil))
	})
	p := tcpPair(t, at, seinev1.Protocol_PROTOCOL_DETECT)
	var all sync.WaitGroup
	for n := range 16 {
		all.Add(1)
		go func() {
			defer all.Done()
			rng := rand.New(rand.NewPCG(uint64(n), 7))
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			data := make([]byte, 1+rng.IntN(2_000_000))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			data[0] = 0 // no HTTP
			leaves := n%4 == 3
			go func() {
				for at := 0; at < len(data); {
					k := min(len(data)-at, 1+rng.IntN(100_000))
					if _, err := c.Write(data[at : at+k]); err != nil {
						return
					}
					if at += k; leaves && at > len(data)/2 {
						_ = c.Close()
						return
					}
				}
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if leaves {
				return
			}
			sum := sha256.Sum256(data)
			if err != nil || len(got) != len(data)+len(sum) || string(got[:len(data)]) != string(data) || string(got[len(data):]) != string(sum[:]) {
				t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
			}
		}()
	}
	all.Wait()
	for _, r := range []*running{p.client, p.server} {
		eventually(t, "nothing is left", func() bool { return r.inflight() == 0 && r.connections() == 0 })
	}
}

// TestServerFirstPlaintext: at a PERMISSIVE port with an undeclared protocol
// the application may speak first to a plaintext client, and a mesh client may
// still begin TLS.
func TestServerFirstPlaintext(t *testing.T) {
	ca := newAuthority(t)
	at := rawApp(t, func(c net.Conn) {
		fmt.Fprint(c, "220 hello\r\n")
		_, _ = io.Copy(c, c)
	})
	s := start(t, Options{Loops: 1, Factory: ca.factory(t, billingID), Forwards: []Forward{{Listen: localhost(), App: at, Port: 25}}},
		(&tableOf{t: t, self: self(t, "billing", billingID, seinev1.MtlsMode_MTLS_PERMISSIVE)}).build())
	c := dial(t, s.Addresses()[0].String())
	if line, err := c.r.ReadString('\n'); line != "220 hello\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.write("EHLO\n")
	if line, err := c.r.ReadString('\n'); line != "EHLO\n" {
		t.Fatalf("%q, %v", line, err)
	}
	s.shows(t, `connection_security_policy="none"`)

	dest := []*seinev1.Destination{{Host: billing, Port: 8080, Weight: 1}}
	table := billingTable(t, []*seinev1.HttpRule{{Destinations: dest}}, endpoint("1", s.Addresses()[0], workload("billing", billingID)))
	table.answers["addr/10.9.9.9:25"] = &seinev1.Answer{Kind: seinev1.Answer_ROUTES, Service: billing, Tcp: []*seinev1.TcpRule{{Destinations: dest}}}
	f := &tables{}
	f.cur.Store(table.build())
	k := startWith(t, Options{Loops: 1, Outbound: localhost(), Factory: ca.factory(t, frontendID)}, f, func(p *Proxy) {
		p.original = func(int) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.9.9.9:25"), nil }
	})
	c = dial(t, k.Addresses()[0].String())
	if line, err := c.r.ReadString('\n'); line != "220 hello\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	s.shows(t, `connection_security_policy="mutual_tls"`)
}
