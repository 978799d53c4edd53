package tap

import (
	"bytes"
	"net/netip"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
)

// Event is one finished request as the loop knows it. Nothing of it is kept.
type Event struct {
	Start time.Time
	// Duration until the last byte was sent to the client; Upstream since the
	// request was sent upstream, 0 if it was not.
	Duration, Upstream time.Duration
	Inbound            bool

	Source, Destination                    *seinev1.Workload // nil: unknown
	SourceIdentity, DestinationIdentity    string            // that the connections proved
	SourceAddress, DestinationAddress      netip.AddrPort
	Service, ServiceName, ServiceNamespace string

	Method, Authority, Path, RequestID, TraceID []byte
	Protocol                                    string
	GRPC                                        bool
	Code, GRPCStatus                            int // 0: no answer was sent; -1: no status came
	Flag                                        telemetry.Flag
	Details, Cause, Rule                        string
	Attempts                                    int
	RequestBytes, ResponseBytes                 int64
	Security                                    string
	Fields                                      []Field
}

// Field is a header field that some tap shows. Value is empty where none shows it.
type Field struct {
	Index int // in Set.Names
	Value []byte
}

// Bounds of what a record holds of one value.
const (
	maxPath  = 1024
	maxValue = 256
)

const redactedQuery = "?redacted"

// appendRecord appends the TapRecord of e as f may see it. By hand, as generated
// code would need a message of its own for each request; a test decodes it with
// the generated one.
func appendRecord(b []byte, f *filter, shows []shown, names []string, e *Event) []byte {
	b = number(b, 1, f.Id)
	b = number(b, 2, uint64(e.Start.UnixNano()))
	b = number(b, 3, uint64(max(e.Duration, 0)))
	b = number(b, 4, uint64(max(e.Upstream, 0)))
	b = flag(b, 5, e.Inbound)
	b = appendParty(b, 6, e.Source, e.SourceIdentity, e.SourceAddress)
	b = appendParty(b, 7, e.Destination, e.DestinationIdentity, e.DestinationAddress)
	b = text(b, 8, e.Service)
	b = octets(b, 9, e.Method, maxValue)
	b = octets(b, 10, e.Authority, maxValue)
	path, _, asked := bytes.Cut(e.Path, query)
	switch {
	case f.Query:
		b = octets(b, 11, e.Path, maxPath)
	case asked:
		path = path[:min(len(path), maxPath)]
		b = protowire.AppendTag(b, 11, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(path)+len(redactedQuery)))
		b = append(append(b, path...), redactedQuery...)
	default:
		b = octets(b, 11, path, maxPath)
	}
	b = text(b, 12, e.Protocol)
	b = flag(b, 13, e.GRPC)
	b = number(b, 14, uint64(e.Code))
	if e.GRPC && e.GRPCStatus >= 0 {
		b = number(b, 15, uint64(e.GRPCStatus)+1)
	}
	if e.Flag != telemetry.FlagNone {
		b = text(b, 16, e.Flag.String())
	}
	b = text(b, 17, e.Details)
	b = text(b, 18, e.Cause[:min(len(e.Cause), maxPath)])
	b = text(b, 19, e.Rule)
	b = number(b, 20, uint64(e.Attempts))
	b = number(b, 21, uint64(e.RequestBytes))
	b = number(b, 22, uint64(e.ResponseBytes))
	b = text(b, 23, e.Security)
	b = octets(b, 24, e.RequestID, maxValue)
	b = octets(b, 25, e.TraceID, maxValue)
	for _, v := range e.Fields {
		how := shows[v.Index]
		if how == absent {
			continue
		}
		name, value := names[v.Index], v.Value[:min(len(v.Value), maxValue)]
		n := 1 + protowire.SizeBytes(len(name)) + 2
		if how == plain {
			n = 1 + protowire.SizeBytes(len(name))
			if len(value) > 0 {
				n += 1 + protowire.SizeBytes(len(value))
			}
		}
		b = protowire.AppendTag(b, 26, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(n))
		b = text(b, 1, name)
		if how == plain {
			b = octets(b, 2, value, maxValue)
		} else {
			b = flag(b, 3, true)
		}
	}
	return b
}

func number(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func flag(b []byte, field protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return number(b, field, 1)
}

func text(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func octets(b []byte, field protowire.Number, v []byte, most int) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v[:min(len(v), most)])
}

// appendParty appends a TapParty. Its length, known once it is written, has two
// bytes: workloads and identities are bounded well below 16 KiB.
func appendParty(b []byte, field protowire.Number, w *seinev1.Workload, identity string, address netip.AddrPort) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	at := len(b)
	b = append(b, 0, 0)
	b = text(b, 1, w.GetNamespace())
	b = text(b, 2, w.GetWorkload())
	b = text(b, 3, w.GetName())
	b = text(b, 4, w.GetVersion())
	b = text(b, 5, identity)
	if address.IsValid() {
		b = append(protowire.AppendTag(b, 6, protowire.BytesType), 0)
		from := len(b)
		b = address.AppendTo(b)
		b[from-1] = byte(len(b) - from) // an address is shorter than 128 bytes
	}
	n := len(b) - at - 2
	b[at], b[at+1] = byte(n)|0x80, byte(n>>7)
	return b
}
