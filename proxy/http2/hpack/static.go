package hpack

import (
	"bytes"
	"encoding/binary"

	"github.com/seinemesh/seine/message"
)

// staticText is RFC 7541 appendix A.
var staticText = [...][2]string{
	{":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
	{":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
	{":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
	{"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""},
	{"cache-control", ""}, {"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""},
	{"content-length", ""}, {"content-location", ""}, {"content-range", ""}, {"content-type", ""},
	{"cookie", ""}, {"date", ""}, {"etag", ""}, {"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""},
	{"if-match", ""}, {"if-modified-since", ""}, {"if-none-match", ""}, {"if-range", ""},
	{"if-unmodified-since", ""}, {"last-modified", ""}, {"link", ""}, {"location", ""}, {"max-forwards", ""},
	{"proxy-authenticate", ""}, {"proxy-authorization", ""}, {"range", ""}, {"referer", ""}, {"refresh", ""},
	{"retry-after", ""}, {"server", ""}, {"set-cookie", ""}, {"strict-transport-security", ""},
	{"transfer-encoding", ""}, {"user-agent", ""}, {"vary", ""}, {"via", ""}, {"www-authenticate", ""},
}

const staticLen = len(staticText)

// static is the same as fields, by index; 0 is none.
var static = func() (t [staticLen + 1]message.Field) {
	for i, p := range staticText {
		name := []byte(p[0])
		t[i+1] = message.Field{ID: message.Intern(name), Name: name, Value: []byte(p[1])}
	}
	return t
}()

// staticNames finds the first entry of a name by the name's hash: open addressing.
var staticNames = func() (t [256]uint8) {
	for i := 1; i <= staticLen; i++ {
		if i > 1 && bytes.Equal(static[i].Name, static[i-1].Name) {
			continue
		}
		at := uint8(hash(0, static[i].Name))
		for t[at] != 0 {
			at++
		}
		t[at] = uint8(i)
	}
	return t
}()

// staticName returns the first entry with that name, whose hash is h; 0: none.
func staticName(name []byte, h uint32) uint32 {
	for at := uint8(h); ; at++ {
		i := staticNames[at]
		if i == 0 || bytes.Equal(static[i].Name, name) {
			return uint32(i)
		}
	}
}

// staticPair returns the entry from i on with that value and i's name; 0: none.
func staticPair(i uint32, value []byte) uint32 {
	for len(value) > 0 {
		if string(static[i].Value) == string(value) {
			return i
		}
		if i == uint32(staticLen) || staticText[i][0] != staticText[i-1][0] {
			break
		}
		i++
	}
	return 0
}

// hash mixes b into h. It need not withstand anybody: a collision costs a few bytes on the wire.
func hash(h uint32, b []byte) uint32 {
	const k = 0x9e3779b97f4a7c15
	x := (uint64(h)+1)*k ^ uint64(len(b))
	for ; len(b) >= 8; b = b[8:] {
		x = (x ^ binary.LittleEndian.Uint64(b)) * k
		x ^= x >> 32
	}
	var tail uint64
	for i, c := range b {
		tail |= uint64(c) << (8 * i)
	}
	x = (x ^ tail) * k
	return uint32(x ^ x>>32)
}
