package span

import (
	"encoding/binary"
	"net/netip"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
	"github.com/seinemesh/seine/telemetry/ring"
)

const (
	// maxValue bounds one value of a record.
	maxValue = 1024
	// maxTags and MaxEvents bound their lists; what is beyond is left out.
	maxTags = 32
	// MaxEvents is how many events a span tells of.
	MaxEvents = 16

	addressSize = 1 + 16 + 2
	fixedSize   = 1 + 16 + 8 + 8 + 8 + 8 + 1 + 2 + 1 + 1 + 1 + 8 + 8 + 3*addressSize + 2 + 1 + 1
	eventSize   = 1 + 8 + 8 + 2 + 1 + addressSize
	numTexts    = 16
)

// Bits of a record's first byte. The side comes first: see Reporter.
const (
	bitServer = 1 << iota
	bitLate
	bitMutual
	bitGRPC
	bitPeer
)

// Ring is one loop's queue to the reporter.
type Ring struct{ r *ring.Ring }

// Append copies s into the ring. False: it was full, and the drop is counted.
func (r *Ring) Append(s *Span) bool {
	b := r.r.Reserve(s.size())
	if b == nil {
		return false
	}
	s.encode(b[:0])
	r.r.Commit()
	return true
}

// text is value i of those that are texts, as bytes or as a string.
func (s *Span) text(i int) ([]byte, string) {
	p := s.Peer // the getters serve nil
	switch i {
	case 0:
		return s.State, ""
	case 1:
		return s.Method, ""
	case 2:
		return s.Path, ""
	case 3:
		return s.Host, ""
	case 4:
		return s.Agent, ""
	case 5:
		return s.RequestID, ""
	case 6:
		return nil, s.Details
	case 7:
		return nil, s.Cause
	case 8:
		return nil, s.Cluster
	case 9:
		return nil, s.Route
	case 10:
		return nil, s.Service
	case 11:
		return nil, p.GetNamespace()
	case 12:
		return nil, p.GetWorkload()
	case 13:
		return nil, p.GetName()
	case 14:
		return nil, p.GetCanonicalService()
	default:
		return nil, p.GetCanonicalRevision()
	}
}

func (s *Span) size() int {
	n := fixedSize
	for i := range numTexts {
		b, t := s.text(i)
		n += 2 + min(len(b)+len(t), maxValue)
	}
	for i := range s.Tags[:min(len(s.Tags), maxTags)] {
		n += 4 + min(len(s.Tags[i].Name), maxValue) + min(len(s.Tags[i].Value), maxValue)
	}
	for i := range s.Events[:min(len(s.Events), MaxEvents)] {
		n += eventSize + 2 + min(len(s.Events[i].Text), maxValue)
	}
	return n
}

// encode appends the record to b, which has the room for it.
func (s *Span) encode(b []byte) []byte {
	le := binary.LittleEndian
	bits := byte(0)
	for i, is := range [...]bool{s.Server, s.Late, s.Mutual, s.IsGRPC, s.Peer != nil} {
		if is {
			bits |= 1 << i
		}
	}
	b = append(b, bits)
	b = append(b, s.Trace[:]...)
	b = append(b, s.ID[:]...)
	b = append(b, s.Parent[:]...)
	b = le.AppendUint64(b, uint64(s.Start.UnixNano()))
	b = le.AppendUint64(b, uint64(s.Duration))
	b = append(b, s.Minor)
	b = le.AppendUint16(b, uint16(s.Status))
	b = append(b, byte(int8(max(-1, min(s.GRPC, 127)))), byte(s.Flag), byte(min(s.Attempts, 255)))
	b = le.AppendUint64(b, uint64(s.Received))
	b = le.AppendUint64(b, uint64(s.Sent))
	b = appendAddress(b, s.Upstream)
	b = appendAddress(b, s.Remote)
	b = appendAddress(b, s.Local)
	b = le.AppendUint16(b, s.Port)
	tags, events := s.Tags[:min(len(s.Tags), maxTags)], s.Events[:min(len(s.Events), MaxEvents)]
	b = append(b, byte(len(tags)), byte(len(events)))
	for i := range numTexts {
		v, t := s.text(i)
		b = appendText(b, v, t)
	}
	for i := range tags {
		b = appendText(b, nil, tags[i].Name)
		b = appendText(b, tags[i].Value, "")
	}
	for i := range events {
		e := &events[i]
		b = append(b, byte(e.Kind))
		b = le.AppendUint64(b, uint64(e.At))
		b = le.AppendUint64(b, uint64(e.Took))
		b = le.AppendUint16(b, uint16(e.Status))
		b = append(b, byte(min(e.Attempt, 255)))
		b = appendAddress(b, e.Address)
		b = appendText(b, nil, e.Text)
	}
	return b
}

func appendText(b, v []byte, s string) []byte {
	v, s = v[:min(len(v), maxValue)], s[:min(len(s), maxValue)]
	b = binary.LittleEndian.AppendUint16(b, uint16(len(v)+len(s)))
	return append(append(b, v...), s...)
}

// appendAddress appends an address in addressSize bytes; a zone is left out.
func appendAddress(b []byte, a netip.AddrPort) []byte {
	kind := byte(0)
	switch addr := a.Addr(); {
	case addr.Is4():
		kind = 4
	case addr.IsValid():
		kind = 6
	}
	ip := a.Addr().As16()
	b = append(append(b, kind), ip[:]...)
	return binary.LittleEndian.AppendUint16(b, a.Port())
}

// reader takes a record apart. Records are of our own making: it checks nothing.
type reader struct{ b []byte }

func (r *reader) take(n int) []byte {
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() byte     { return r.take(1)[0] }
func (r *reader) u16() uint16  { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u64() uint64  { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) text() []byte { return r.take(int(r.u16())) }

func (r *reader) address() netip.AddrPort {
	kind := r.u8()
	ip, port := netip.AddrFrom16([16]byte(r.take(16))), r.u16()
	switch kind {
	case 0:
		return netip.AddrPort{}
	case 4:
		ip = ip.Unmap()
	}
	return netip.AddrPortFrom(ip, port)
}

// decode makes a span of a record. What it holds points into p.
func decode(p []byte) *Span {
	r := reader{p}
	bits := r.u8()
	s := &Span{
		Server: bits&bitServer != 0, Late: bits&bitLate != 0, Mutual: bits&bitMutual != 0, IsGRPC: bits&bitGRPC != 0,
		Trace: [16]byte(r.take(16)), ID: [8]byte(r.take(8)), Parent: [8]byte(r.take(8)),
	}
	s.Start, s.Duration = time.Unix(0, int64(r.u64())), time.Duration(r.u64())
	s.Minor, s.Status, s.GRPC = r.u8(), int(r.u16()), int(int8(r.u8()))
	s.Flag, s.Attempts = telemetry.Flag(r.u8()), int(r.u8())
	s.Received, s.Sent = int64(r.u64()), int64(r.u64())
	s.Upstream, s.Remote, s.Local = r.address(), r.address(), r.address()
	s.Port = r.u16()
	tags, events := int(r.u8()), int(r.u8())
	s.State, s.Method, s.Path, s.Host, s.Agent, s.RequestID = r.text(), r.text(), r.text(), r.text(), r.text(), r.text()
	s.Details, s.Cause, s.Cluster, s.Route, s.Service = string(r.text()), string(r.text()), string(r.text()), string(r.text()), string(r.text())
	peer := &seinev1.Workload{
		Namespace: string(r.text()), Workload: string(r.text()), Name: string(r.text()),
		CanonicalService: string(r.text()), CanonicalRevision: string(r.text()),
	}
	if bits&bitPeer != 0 {
		s.Peer = peer
	}
	for range tags {
		s.Tags = append(s.Tags, Tag{string(r.text()), r.text()})
	}
	for range events {
		s.Events = append(s.Events, Event{
			Kind: EventKind(r.u8()), At: time.Duration(r.u64()), Took: time.Duration(r.u64()), Status: int(r.u16()),
			Attempt: int(r.u8()), Address: r.address(), Text: string(r.text()),
		})
	}
	return s
}
