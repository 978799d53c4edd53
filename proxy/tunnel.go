//go:build linux

package proxy

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/proxy/http1"
	"github.com/seinemesh/seine/telemetry"
)

// connect2 takes a CONNECT over HTTP/2; false: it was answered. protocol is that
// of an extended one (RFC 8441).
func (x *exchange) connect2(protocol []byte) bool {
	switch {
	case len(protocol) == 0 && x.caller.door.kind == doorExplicit:
		x.connects = true
		return true
	case string(protocol) == "websocket":
		x.tunnels = true
		x.framing = http1.Framing{KeepAlive: true, Kind: http1.Tunnel}
		return true
	case len(protocol) > 0:
		x.details = "upgrade_failed"
		x.reply(501, telemetry.FlagNR, "CONNECT is not served for that :protocol")
		return false
	}
	x.details = "route_not_found"
	x.reply(405, telemetry.FlagNR, "CONNECT is not configured here")
	return false
}

// established2 answers a CONNECT of an HTTP/2 client, and passes bytes on from
// then on.
func (x *exchange) established2() {
	w, st, u := x.w, x.stream(), x.up
	x.bridged, x.raw, x.transmitted, x.headSent = true, true, true, true
	x.status, x.phase = 200, exchanging
	x.sentAt, x.local = w.loop.Now(), u.local
	if g := u.greeting(); g != nil {
		u.send(g, nil)
	}
	w.res = message.Response{Status: 200, Fields: w.res.Fields[:0]}
	out, _ := st.b.h2.AppendResponse(st.b.room(64), st.s, &w.res, nil, false)
	st.b.out = out
	x.req.plain, x.req.raw, x.req.open = &u.socket, true, true
	x.res.to, x.res.ts, x.res.open = &st.b.link, st.s, true
	w.loop.Arm(x.stall, x.sentAt+int64(w.p.o.StreamIdle))
	x.move()
}

// appendUpgrade ends the head of a GET in out with what asks an HTTP/1 server
// for a WebSocket (RFC 8441 §5).
func (x *exchange) appendUpgrade(out []byte) []byte {
	var nonce [16]byte
	binary.LittleEndian.PutUint64(nonce[:8], x.w.rng.Uint64())
	binary.LittleEndian.PutUint64(nonce[8:], x.w.rng.Uint64())
	out = append(out[:len(out)-2], "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "...)
	return append(base64.StdEncoding.AppendEncode(out, nonce[:]), "\r\n\r\n"...)
}
