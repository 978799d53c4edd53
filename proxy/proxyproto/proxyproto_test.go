package proxyproto

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

func header(from, to string) Header {
	return Header{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)}
}

func v2(kind, family byte, body string) string {
	return signature + string([]byte{kind, family, byte(len(body) >> 8), byte(len(body))}) + body
}

const addresses4 = "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x1f\x90"

// summed is a header with a checksum in it.
func summed(wrong byte) string {
	b := []byte(v2(0x21, 0x11, addresses4+"\x03\x00\x04\x00\x00\x00\x00\x04\x00\x01x"))
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(b[headV2+12+3:], sum)
	b[len(b)-1] ^= wrong
	return string(b)
}

func TestParse(t *testing.T) {
	four := header("1.2.3.4:80", "5.6.7.8:8080")
	six := header("[2001:db8::1]:1", "[2001:db8::2]:65535")
	for name, c := range map[string]struct {
		in   string
		want Header
		s    State
	}{
		"v1 four":                     {"PROXY TCP4 1.2.3.4 5.6.7.8 80 8080\r\n", four, Complete},
		"v1 six":                      {"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", six, Complete},
		"v1 mapped":                   {"PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 80 8080\r\n", four, Complete},
		"v1 unknown":                  {"PROXY UNKNOWN\r\n", Header{}, Complete},
		"v1 unknown and more":         {"PROXY UNKNOWN ffff:f::1 whatever 65535\r\n", Header{}, Complete},
		"v1 unknown, too long":        {"PROXY UNKNOWN " + strings.Repeat("x", 107) + "\r\n", Header{}, Invalid},
		"v1 port 0":                   {"PROXY TCP4 1.2.3.4 5.6.7.8 0 8080\r\n", header("1.2.3.4:0", "5.6.7.8:8080"), Complete},
		"v1 bare LF":                  {"PROXY TCP4 1.2.3.4 5.6.7.8 80 8080\n", Header{}, Invalid},
		"v1 CR within":                {"PROXY TCP4 1.2.3.4\r5.6.7.8 80 8080\r\n", Header{}, Invalid},
		"v1 two spaces":               {"PROXY TCP4 1.2.3.4  5.6.7.8 80 8080\r\n", Header{}, Invalid},
		"v1 space at the end":         {"PROXY TCP4 1.2.3.4 5.6.7.8 80 8080 \r\n", Header{}, Invalid},
		"v1 leading zero of a port":   {"PROXY TCP4 1.2.3.4 5.6.7.8 080 8080\r\n", Header{}, Invalid},
		"v1 leading zero of an octet": {"PROXY TCP4 01.2.3.4 5.6.7.8 80 8080\r\n", Header{}, Invalid},
		"v1 port too large":           {"PROXY TCP4 1.2.3.4 5.6.7.8 80 65536\r\n", Header{}, Invalid},
		"v1 signed port":              {"PROXY TCP4 1.2.3.4 5.6.7.8 +80 8080\r\n", Header{}, Invalid},
		"v1 other family":             {"PROXY TCP4 ::1 ::2 80 8080\r\n", Header{}, Invalid},
		"v1 zone":                     {"PROXY TCP6 fe80::1%eth0 fe80::2 80 8080\r\n", Header{}, Invalid},
		"v1 UDP":                      {"PROXY UDP4 1.2.3.4 5.6.7.8 80 8080\r\n", Header{}, Invalid},
		"v1 lower case":               {"proxy TCP4 1.2.3.4 5.6.7.8 80 8080\r\n", Header{}, Invalid},
		"v1 without end":              {"PROXY " + strings.Repeat("x", 200), Header{}, Invalid},
		"v1 begun":                    {"PROXY TCP4 1.2", Header{}, Partial},
		"nothing":                     {"", Header{}, Partial},
		"HTTP":                        {"GET / HTTP/1.1\r\n", Header{}, Invalid},
		"TLS":                         {"\x16\x03\x01\x00", Header{}, Invalid},
		"v2 four":                     {v2(0x21, 0x11, addresses4), four, Complete},
		"v2 six": {v2(0x21, 0x21, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\xff\xff"),
			six, Complete},
		"v2 with values":         {v2(0x21, 0x11, addresses4+"\x02\x00\x03abc\x04\x00\x00"), four, Complete},
		"v2 checksum":            {summed(0), four, Complete},
		"v2 wrong checksum":      {summed(1), Header{}, Invalid},
		"v2 local":               {v2(0x20, 0, ""), Header{}, Complete},
		"v2 local with anything": {v2(0x20, 0x11, "abc"), Header{}, Complete},
		"v2 short":               {v2(0x21, 0x11, addresses4[:11]), Header{}, Invalid},
		"v2 cut value":           {v2(0x21, 0x11, addresses4+"\x02\x00\x03ab"), Header{}, Invalid},
		"v2 half a value's head": {v2(0x21, 0x11, addresses4+"\x02\x00"), Header{}, Invalid},
		"v2 UDP":                 {v2(0x21, 0x12, addresses4), Header{}, Invalid},
		"v2 unix":                {v2(0x21, 0x31, strings.Repeat("a", 216)), Header{}, Invalid},
		"v2 unspecified":         {v2(0x21, 0, ""), Header{}, Invalid},
		"v2 version 3":           {v2(0x31, 0x11, addresses4), Header{}, Invalid},
		"v2 command 2":           {v2(0x22, 0x11, addresses4), Header{}, Invalid},
		"v2 too long":            {v2(0x21, 0x11, strings.Repeat("\x00", Max)), Header{}, Invalid},
		"v2 begun":               {signature[:5], Header{}, Partial},
	} {
		t.Run(name, func(t *testing.T) {
			h, n, s := Parse([]byte(c.in))
			if s != c.s || h != c.want || s == Complete && n != len(c.in) || s != Complete && n != 0 {
				t.Fatalf("%v, %d bytes, state %d", h, n, s)
			}
			if s != Complete {
				return
			}
			for i := range len(c.in) { // byte by byte: never anything but Partial before the end
				if _, _, s := Parse([]byte(c.in[:i])); s != Partial {
					t.Fatalf("%d bytes: state %d", i, s)
				}
			}
			if _, n, s := Parse([]byte(c.in + "\x00more")); n != len(c.in) || s != Complete {
				t.Fatalf("with more behind it: %d bytes, state %d", n, s)
			}
		})
	}
}

func TestAppend(t *testing.T) {
	for _, h := range []Header{{}, header("1.2.3.4:80", "5.6.7.8:8080"), header("[2001:db8::1]:1", "[2001:db8::2]:65535"), header("1.2.3.4:80", "[2001:db8::2]:443"), header("[::ffff:1.2.3.4]:80", "5.6.7.8:8080")} {
		want := Header{netip.AddrPortFrom(h.Source.Addr().Unmap(), h.Source.Port()), netip.AddrPortFrom(h.Destination.Addr().Unmap(), h.Destination.Port())}
		for _, b := range [][]byte{h.AppendV1(nil), h.AppendV2(nil)} {
			if got, n, s := Parse(b); s != Complete || n != len(b) || got != want || len(b) > maxV1 {
				t.Errorf("%v: %q is %v, %d", h, b, got, s)
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() { h := Header{}; _, _, _ = Parse(nil); _ = h }); n > 0 {
		t.Error(n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"PROXY TCP4 1.2.3.4 5.6.7.8 80 8080\r\n", "PROXY UNKNOWN\r\n", v2(0x21, 0x11, addresses4), v2(0x20, 0, ""), summed(0)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, s := Parse(b)
		if s != Complete {
			if n != 0 || h != (Header{}) {
				t.Fatalf("state %d with %v and %d bytes", s, h, n)
			}
			if s == Partial && len(b) >= Max {
				t.Fatal("it asks for more without end")
			}
			return
		}
		if n > len(b) || n > Max {
			t.Fatalf("%d bytes of %d", n, len(b))
		}
		again, _, s := Parse(h.AppendV2(nil))
		if s != Complete || again != h {
			t.Fatalf("%v is %v again", h, again)
		}
		if other, m, s := Parse(append(bytes.Clone(b[:n]), "GET / HTTP/1.1\r\n"...)); s != Complete || m != n || other != h {
			t.Fatal("what follows changes it")
		}
	})
}
