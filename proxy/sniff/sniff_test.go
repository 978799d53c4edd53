package sniff

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

func TestDetect(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Verdict
	}{
		{"", NeedMore},
		{"G", NeedMore},
		{"GET", NeedMore},
		{"GET ", NeedMore},
		{"GET /", NeedMore},
		{"GET / HTTP/1.1\r", NeedMore},
		{"GET / HTTP/1.1\r\n", HTTP1},
		{"GET / HTTP/1.1\n", HTTP1}, // the codec answers 400
		{"GET / HTTP/3.0\r\n", HTTP1},
		{"purge /x HTTP/1.0\r\nhost", HTTP1},
		{"OPTIONS * HTTP/1.1\r\n", HTTP1},
		{"GET http://a/ HTTP/1.1\r\n", HTTP1},
		{"GET HTTP://a/ HTTP/1.1\r\n", HTTP1},
		{"CONNECT a:1 HTTP/1.1\r\n", HTTP1},
		{"CONNECT [::1]:1 HTTP/1.1\r\n", HTTP1},
		{"GET /" + strings.Repeat("x", 5000), HTTP1},
		{"P", NeedMore},
		{"PR", NeedMore},
		{"PRI * HTTP/2.0\r", NeedMore},
		{"PRI * HTTP/2.0\r\n", HTTP2},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2},
		{"POST / HTTP/1.1\r\n", HTTP1},
		{"PRI * HTTP/1.1\r\n", HTTP1},
		{"\x16", NeedMore},
		{"\x16\x03\x01\x02\x00", NeedMore},
		{"\x16\x03\x01\x02\x00\x01", TLS},
		{"\x16\x03\x01\x02\x00\x02", Opaque},
		{"\x16\x03\x01\x00\x00\x01", Opaque},
		{"\x16\x03\x01\x40\x01", Opaque},
		{"\x16\x03\x05", Opaque},
		{"\x16\x02", Opaque},
		{"\x80\x2e\x01\x03\x01", Opaque}, // SSL 2
		{"\r\nGET / HTTP/1.1\r\n", Opaque},
		{"GET /key\r\n", Opaque}, // Redis, inline
		{"*2\r\n$3\r\nGET\r\n", Opaque},
		{"get /key\r\n", Opaque}, // memcached
		{"set k 0 0 1\r\n", Opaque},
		{"CONNECT {\"verbose\":false}\r\n", Opaque}, // NATS
		{"CONNECT\naccept-version:1.2\n", Opaque},   // STOMP
		{"OPTIONS rtsp://a/ RTSP/1.0\r\n", Opaque},
		{"OPTIONS * RTSP/1.0\r\n", Opaque},
		{"EHLO host\r\n", Opaque},
		{"HELO h\r\n", Opaque},
		{"SSH-2.0-OpenSSH_9.2\r\n", Opaque},
		{strings.Repeat("A", 32), NeedMore},
		{strings.Repeat("A", 33), Opaque},
		{" GET / HTTP/1.1\r\n", Opaque},
		{"GET /\x00 HTTP/1.1\r\n", Opaque},
		{"\x00\x00\x00\x01", Opaque},
		{"\x03\x00", Opaque},
	} {
		if got := Detect([]byte(c.in)); got != c.want {
			t.Errorf("Detect(%q) = %v, want %v", c.in[:min(len(c.in), 60)], got, c.want)
		}
	}
}

// hello returns the ClientHello that crypto/tls sends with that configuration.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		tls.Client(client, c).Handshake() // fails: nobody answers
	}()
	head := make([]byte, recordHead)
	if _, err := io.ReadFull(server, head); err != nil {
		t.Fatal(err)
	}
	b := append(head, make([]byte, recordLength(head))...)
	if _, err := io.ReadFull(server, b[recordHead:]); err != nil {
		t.Fatal(err)
	}
	return b
}

// split cuts the record's payload into records of at most size bytes.
func split(b []byte, size int) (out []byte) {
	for part := range slices.Chunk(b[recordHead:], size) {
		out = append(out, b[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

var configs = []struct {
	name string
	c    *tls.Config
}{
	{"plain", &tls.Config{InsecureSkipVerify: true}},
	{"sni", &tls.Config{ServerName: "billing.default.svc.cluster.local"}},
	{"istio", &tls.Config{ServerName: "outbound_.8080_.v1_.billing.default.svc.cluster.local",
		NextProtos: []string{"seine-http/1.1", "istio-http/1.1", "istio"}}},
	{"tls12", &tls.Config{ServerName: "a.b", MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}},
	{"small", &tls.Config{ServerName: "x", CurvePreferences: []tls.CurveID{tls.CurveP256}}},
	{"manyALPN", &tls.Config{ServerName: "x", NextProtos: slices.Repeat([]string{strings.Repeat("p", 255)}, 40)}},
}

func TestClientHelloOfCryptoTLS(t *testing.T) {
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			whole := hello(t, c.c)
			for _, wire := range [][]byte{whole, split(whole, 1000), split(whole, 100), split(whole, 3)} {
				if len(wire) > maxWire {
					continue
				}
				in := append(slices.Clone(wire), "and what follows"...)
				if v := Detect(in); v != TLS {
					t.Fatalf("Detect = %v", v)
				}
				h, n, s := ClientHello(in)
				if s != Complete || n != len(wire) {
					t.Fatalf("state %v, %d bytes; want all %d", s, n, len(wire))
				}
				if string(h.SNI) != c.c.ServerName {
					t.Errorf("SNI %q, want %q", h.SNI, c.c.ServerName)
				}
				var got []string
				for p, n := h.ALPN(0); p != nil; p, n = h.ALPN(n) {
					got = append(got, string(p))
				}
				if !slices.Equal(got, c.c.NextProtos) {
					t.Errorf("ALPN %q, want %q", got, c.c.NextProtos)
				}
				for k := range wire {
					if _, _, s := ClientHello(wire[:k]); s != Partial {
						t.Fatalf("the first %d bytes: state %v", k, s)
					}
				}
			}
		})
	}
}

// build makes a ClientHello of one record from its extensions.
func build(ext ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	all := bytes.Join(ext, nil)
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	body = append(body, all...)
	msg := append([]byte{clientHello, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	rec := []byte{handshake, 3, 1, byte(len(msg) >> 8), byte(len(msg))}
	return append(rec, msg...)
}

func extension(kind uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

func TestClientHelloMalformed(t *testing.T) {
	good := build(extension(extServerName, "\x00\x04\x00\x00\x01a"), extension(extALPN, "\x00\x03\x02h2"))
	if _, _, s := ClientHello(good); s != Complete {
		t.Fatalf("the good one: %v", s)
	}
	sni := extension(extServerName, "\x00\x04\x00\x00\x01a")
	alpn := extension(extALPN, "\x00\x03\x02h2")
	with := func(at int, v byte) []byte {
		b := slices.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"not a handshake":            with(0, 0x17),
		"major version":              with(1, 2),
		"minor version":              with(2, 9),
		"server hello":               with(5, 2),
		"message beyond the bound":   with(6, 1),
		"bytes after the message":    with(8, good[8]-1),
		"session id too long":        with(43, 33),
		"odd cipher suites":          with(45, 3),
		"no cipher suites":           with(45, 0),
		"extensions cut":             with(51, good[51]+1),
		"extensions left over":       with(51, good[51]-1),
		"server name twice":          build(sni, sni),
		"ALPN twice":                 build(alpn, alpn),
		"empty server name list":     build(extension(extServerName, "\x00\x00")),
		"empty host name":            build(extension(extServerName, "\x00\x03\x00\x00\x00")),
		"two host names":             build(extension(extServerName, "\x00\x08\x00\x00\x01a\x00\x00\x01b")),
		"host name with a space":     build(extension(extServerName, "\x00\x06\x00\x00\x03a b")),
		"host name with NUL":         build(extension(extServerName, "\x00\x05\x00\x00\x02a\x00")),
		"server name list too short": build(extension(extServerName, "\x00\x03\x00\x00\x01a")),
		"server name cut":            build(extension(extServerName, "\x00\x04\x00\x00\x02a")),
		"empty ALPN list":            build(extension(extALPN, "\x00\x00")),
		"empty protocol name":        build(extension(extALPN, "\x00\x01\x00")),
		"protocol name cut":          build(extension(extALPN, "\x00\x02\x02h")),
		"ALPN with more after it":    build(extension(extALPN, "\x00\x03\x02h2x")),
		"extension cut":              build([]byte{0, 5, 0, 9, 1}),
		"empty record":               {handshake, 3, 1, 0, 0},
		"record beyond the bound":    {handshake, 3, 1, 0x40, 1},
		"empty message":              {handshake, 3, 1, 0, 4, clientHello, 0, 0, 0},
		"a second record of data": append(split(good, 10)[:15],
			0x17, 3, 3, 0, 1, 0),
	} {
		if h, n, s := ClientHello(b); s != Invalid || n != 0 || h.SNI != nil && s == Complete {
			t.Errorf("%s: state %v, n %d", name, s, n)
		}
	}
	endless := bytes.Repeat([]byte{handshake, 3, 1, 0, 1, 1}, maxWire)
	if _, _, s := ClientHello(endless); s != Invalid {
		t.Errorf("endless small records: %v", s)
	}
	small := append([]byte{handshake, 3, 1, 0, 1, clientHello}, bytes.Repeat([]byte{handshake, 3, 1, 0, 1, 0}, 3)...)
	small[11] = 0   // the length's first byte
	small[17] = 0x3 // 0x3000 bytes to come, in records of one byte each
	small = append(small, bytes.Repeat([]byte{handshake, 3, 1, 0, 1, 0}, 0x3000)...)
	if _, _, s := ClientHello(small); s != Invalid {
		t.Errorf("a ClientHello spread over tiny records: %v", s)
	}
}

func TestNoAllocation(t *testing.T) {
	b := hello(t, configs[2].c)
	req := []byte("GET /some/path HTTP/1.1\r\nHost: a\r\n\r\n")
	if n := testing.AllocsPerRun(100, func() {
		Detect(b)
		Detect(req)
		h, _, _ := ClientHello(b)
		offered := false
		for p, n := h.ALPN(0); p != nil; p, n = h.ALPN(n) {
			offered = offered || string(p) == "istio"
		}
		if !offered {
			t.Fatal("no istio")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDetect(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "CONNECT a:1 HTTP/1.1\r\n", "*1\r\n$4\r\nPING\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want := Detect(b)
		for k := range b {
			if got := Detect(b[:k]); got != NeedMore && got != want {
				t.Fatalf("%v after %d bytes, %v after all of %q", got, k, want, b)
			}
		}
		if want == NeedMore && len(b) > maxLine {
			t.Fatalf("undecided after %d bytes", len(b))
		}
	})
}

var errStop = errors.New("stop")

// FuzzClientHello: it never panics, more bytes never take a verdict back, and
// whatever crypto/tls reads as a ClientHello we read alike.
func FuzzClientHello(f *testing.F) {
	for i := range configs[:5] {
		b := hello(f, configs[i].c)
		f.Add(b)
		f.Add(split(b, 50))
	}
	f.Add(build(extension(extServerName, "\x00\x04\x00\x00\x01a"), extension(extALPN, "\x00\x03\x02h2")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, s := ClientHello(b)
		for k := range b {
			h2, n2, s2 := ClientHello(b[:k])
			if s2 != Partial && (s2 != s || n2 != n || !bytes.Equal(h2.SNI, h.SNI)) {
				t.Fatalf("state %v after %d bytes, %v after all", s2, k, s)
			}
		}
		if s != Complete {
			if p, _ := h.ALPN(0); n != 0 || p != nil {
				t.Fatalf("state %v but n %d, %+v", s, n, h)
			}
			return
		}
		var ours, theirs []string
		for p, i := h.ALPN(0); p != nil; p, i = h.ALPN(i) {
			ours = append(ours, string(p))
		}
		if Detect(b) != TLS {
			t.Fatalf("a ClientHello that Detect calls %v", Detect(b))
		}
		sni, seen := "", false
		server := tls.Server(&once{Reader: bytes.NewReader(b[:n])}, &tls.Config{
			GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
				sni, theirs, seen = i.ServerName, i.SupportedProtos, true
				return nil, errStop
			},
		})
		_ = server.Handshake()
		// crypto/tls drops a trailing dot's name or refuses it; what it reports must be what we saw.
		if seen && (sni != string(h.SNI) || !slices.Equal(ours, theirs)) {
			t.Fatalf("we read %q %q, crypto/tls %q %q", h.SNI, ours, sni, theirs)
		}
	})
}

// once is a connection that gives what the reader has, and takes everything.
type once struct {
	net.Conn
	*bytes.Reader
}

func (o *once) Read(b []byte) (int, error)  { return o.Reader.Read(b) }
func (o *once) Write(b []byte) (int, error) { return len(b), nil }
func (o *once) Close() error                { return nil }
