package accesslog

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/ring"
)

const (
	// maxValue bounds one value, maxValues of which a record holds.
	maxValue  = 1024
	numValues = 14

	// A record: the numbers, the addresses, then each value with its length (2).
	addrSize   = 1 + 16 + 2
	fixedSize  = 8*5 + 2 + 1 + 4*addrSize + 1
	truncation = "…"
)

// Ring is one loop's queue to the writer.
type Ring struct{ ring *ring.Ring }

// Append copies e into the ring. False: it was full, and the drop is counted.
func (r *Ring) Append(e *Entry) bool {
	if r == nil {
		return true
	}
	size := fixedSize
	for i := range numValues {
		b, s := e.value(i)
		size += 2 + min(len(b)+len(s), maxValue)
	}
	b := r.ring.Reserve(size)
	if b == nil {
		return false
	}
	e.encode(b[:0])
	r.ring.Commit()
	return true
}

// record is an entry as the ring holds it.
type record struct {
	start                           int64 // nanoseconds since 1970
	duration, service               time.Duration
	received, sent                  int64
	code                            uint16
	flag                            telemetry.Flag
	attempts                        uint8
	upstreamHost, upstreamLocal     netip.AddrPort
	downstreamLocal, downstreamPeer netip.AddrPort
	values                          [numValues][]byte
}

// Places of the values in a record.
const (
	method = iota
	path
	authority
	protocol
	userAgent
	requestID
	forwardedFor
	details
	termination
	upstreamFailure
	upstreamCluster
	serverName
	routeName
	traceID
)

// value returns value i, as bytes or as a string.
func (e *Entry) value(i int) ([]byte, string) {
	switch i {
	case method:
		return e.Method, ""
	case path:
		return e.Path, ""
	case authority:
		return e.Authority, ""
	case protocol:
		return nil, e.Protocol
	case userAgent:
		return e.UserAgent, ""
	case requestID:
		return e.RequestID, ""
	case forwardedFor:
		return e.ForwardedFor, ""
	case details:
		return nil, e.Details
	case termination:
		return nil, e.Termination
	case upstreamFailure:
		return nil, e.UpstreamFailure
	case upstreamCluster:
		return nil, e.UpstreamCluster
	case serverName:
		return nil, e.ServerName
	case routeName:
		return nil, e.RouteName
	default:
		return e.TraceID, ""
	}
}

// encode appends the record to b, which has the room.
func (e *Entry) encode(b []byte) {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(e.Start.UnixNano()))
	b = le.AppendUint64(b, uint64(e.Duration))
	b = le.AppendUint64(b, uint64(e.UpstreamServiceTime))
	b = le.AppendUint64(b, uint64(e.BytesReceived))
	b = le.AppendUint64(b, uint64(e.BytesSent))
	b = le.AppendUint16(b, uint16(e.Code))
	b = append(b, byte(e.Flag))
	b = appendAddr(b, e.UpstreamHost)
	b = appendAddr(b, e.UpstreamLocal)
	b = appendAddr(b, e.DownstreamLocal)
	b = appendAddr(b, e.DownstreamRemote)
	b = append(b, byte(min(e.Attempts, 255)))
	for i := range numValues {
		v, s := e.value(i)
		n := len(v) + len(s)
		if n <= maxValue {
			b = le.AppendUint16(b, uint16(n))
			b = append(append(b, v...), s...)
			continue
		}
		const keep = maxValue - len(truncation)
		b = le.AppendUint16(b, maxValue)
		if s != "" {
			b = append(b, s[:keep]...)
		} else {
			b = append(b, v[:keep]...)
		}
		b = append(b, truncation...)
	}
}

func (rec *record) decode(b []byte) {
	le := binary.LittleEndian
	rec.start = int64(le.Uint64(b))
	rec.duration = time.Duration(le.Uint64(b[8:]))
	rec.service = time.Duration(le.Uint64(b[16:]))
	rec.received = int64(le.Uint64(b[24:]))
	rec.sent = int64(le.Uint64(b[32:]))
	rec.code = le.Uint16(b[40:])
	rec.flag = telemetry.Flag(b[42])
	rec.upstreamHost = readAddr(b[43:])
	rec.upstreamLocal = readAddr(b[43+addrSize:])
	rec.downstreamLocal = readAddr(b[43+2*addrSize:])
	rec.downstreamPeer = readAddr(b[43+3*addrSize:])
	rec.attempts = b[43+4*addrSize]
	b = b[fixedSize:]
	for i := range rec.values {
		n := int(le.Uint16(b))
		rec.values[i] = b[2 : 2+n]
		b = b[2+n:]
	}
}

// appendAddr appends an address in addrSize bytes. A zone is left out: a log
// line names the machine's own addresses.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	kind := byte(0)
	switch addr := a.Addr(); {
	case addr.Is4():
		kind = 4
	case addr.IsValid():
		kind = 6
	}
	ip := a.Addr().As16()
	b = append(b, kind)
	b = append(b, ip[:]...)
	return binary.LittleEndian.AppendUint16(b, a.Port())
}

func readAddr(b []byte) netip.AddrPort {
	ip := netip.AddrFrom16([16]byte(b[1:17]))
	switch b[0] {
	case 0:
		return netip.AddrPort{}
	case 4:
		ip = ip.Unmap()
	}
	return netip.AddrPortFrom(ip, binary.LittleEndian.Uint16(b[17:]))
}
