// Package trace reads and writes what requests say about the distributed trace
// that they belong to: W3C Trace Context (traceparent, tracestate) and B3, in
// one field (b3) or in several (x-b3-*).
//
// What enters: the fields of a request's head. What leaves: a Context, and the
// fields of the request that is sent on. It is pure, allocates nothing, and is
// strict: a value that breaks its format's grammar is as if it were not there,
// and is never sent on.
package trace

import (
	"encoding/binary"

	"github.com/seinemesh/seine/message"
)

// ID is a trace's. The zero ID is none.
type ID [16]byte

// SpanID is a span's. The zero SpanID is none.
type SpanID [8]byte

// MakeID returns the ID of two random numbers. It is never zero.
func MakeID(a, b uint64) (id ID) {
	binary.BigEndian.PutUint64(id[:8], a)
	binary.BigEndian.PutUint64(id[8:], b)
	if id == (ID{}) {
		id[15] = 1
	}
	return id
}

// MakeSpanID returns the SpanID of a random number. It is never zero.
func MakeSpanID(a uint64) (id SpanID) {
	binary.BigEndian.PutUint64(id[:], a)
	if a == 0 {
		id[7] = 1
	}
	return id
}

// Append appends the ID in lower-case hexadecimal.
func (id ID) Append(dst []byte) []byte { return appendHex(dst, id[:]) }

// Append appends the ID in lower-case hexadecimal.
func (id SpanID) Append(dst []byte) []byte { return appendHex(dst, id[:]) }

// Formats is a set of the ways in which a request tells of its trace.
type Formats uint8

// The ways.
const (
	W3C      Formats = 1 << iota // traceparent, tracestate
	B3Single                     // b3
	B3Multi                      // x-b3-traceid, x-b3-spanid, …

	AnyB3 = B3Single | B3Multi
)

// Decision is what those before us have decided about recording the trace.
type Decision uint8

// The decisions. Debug is Sampled, and says to those behind us that they must
// not decide otherwise (B3's d).
const (
	Undecided Decision = iota
	Dropped
	Sampled
	Debug
)

// Context is what a request says of its trace.
type Context struct {
	Trace    ID     // zero: it says nothing, and a trace begins here
	Parent   SpanID // the span of whoever sent it; zero: there is none
	Decision Decision
	// Random is traceparent's flag of that name (W3C Trace Context level 2):
	// whoever began the trace chose its ID at random. It is passed on.
	Random bool
	// Short: the trace's ID came in 64 bits, and goes on so in B3.
	Short bool
	// Formats it came in, well-formed.
	Formats Formats
	// Forced: x-envoy-force-trace asks for the trace to be recorded.
	Forced bool
	// State is tracestate, if it is well-formed and came in one field. It points
	// into the request.
	State []byte
}

// maxStates bounds the members of tracestate (W3C Trace Context §3.3.1.1).
const maxStates = 32

// Extract reads what the fields say. Where formats contradict each other, the
// one in prefer holds; where they agree on the trace, the decision of either
// holds. A format of which a field came twice is as if it were not there.
func Extract(fields []message.Field, prefer Formats) (c Context) {
	var parent, single, traceID, spanID, parentID, sampled, flags, state []byte
	var parents, singles, states, members int
	var twice, badState bool
	once := func(to *[]byte, v []byte) {
		twice = twice || *to != nil
		*to = v
	}
	for i := range fields {
		f := &fields[i]
		if f.ID == message.TraceParent {
			parent = f.Value
			parents++
			continue
		}
		if f.ID != message.Other {
			continue
		}
		switch name(f.Name) {
		case fieldState:
			n, ok := checkState(f.Value)
			badState = badState || !ok
			members += n
			state = f.Value
			states++
		case fieldB3:
			single = f.Value
			singles++
		case fieldTraceID:
			once(&traceID, f.Value)
		case fieldSpanID:
			once(&spanID, f.Value)
		case fieldParentID:
			once(&parentID, f.Value)
		case fieldSampled:
			once(&sampled, f.Value)
		case fieldFlags:
			once(&flags, f.Value)
		case fieldForce:
			c.Forced = true
		}
	}
	var w3c, b3, multi Context
	hasW3C := parents == 1 && ParseParent(parent, &w3c)
	hasB3 := singles == 1 && ParseB3(single, &b3)
	if !hasB3 && !twice && (traceID != nil || sampled != nil || flags != nil) {
		hasB3 = parseMulti(traceID, spanID, parentID, sampled, flags, &multi)
		b3 = multi
	} else if hasB3 && traceID != nil {
		b3.Formats |= B3Multi
	}
	forced := c.Forced
	switch {
	case hasW3C && hasB3:
		first, second := w3c, b3
		if prefer&W3C == 0 && b3.Trace != (ID{}) {
			first, second = b3, w3c
		}
		c = first
		c.Formats |= second.Formats
		if c.Decision == Undecided && (second.Trace == c.Trace || second.Trace == (ID{})) {
			c.Decision = second.Decision
		}
		c.Random = w3c.Random && c.Trace == w3c.Trace
	case hasW3C:
		c = w3c
	case hasB3:
		c = b3
	}
	c.Forced = forced
	if states == 1 && !badState && members <= maxStates && hasW3C && c.Trace == w3c.Trace {
		c.State = state
	}
	return c
}

// field is one of those that tell of a trace.
type field uint8

const (
	fieldNone field = iota
	fieldState
	fieldB3
	fieldTraceID
	fieldSpanID
	fieldParentID
	fieldSampled
	fieldFlags
	fieldForce
)

// name tells a field that message does not intern: most fall out by their
// length.
func name(n []byte) field {
	switch len(n) {
	case 2:
		return either(n, "b3", fieldB3)
	case 10:
		if n[0]|0x20 == 't' {
			return either(n, "tracestate", fieldState)
		}
		return either(n, "x-b3-flags", fieldFlags)
	case 11:
		return either(n, "x-b3-spanid", fieldSpanID)
	case 12:
		if n[5]|0x20 == 't' {
			return either(n, "x-b3-traceid", fieldTraceID)
		}
		return either(n, "x-b3-sampled", fieldSampled)
	case 17:
		return either(n, "x-b3-parentspanid", fieldParentID)
	case 19:
		return either(n, "x-envoy-force-trace", fieldForce)
	}
	return fieldNone
}

func either(n []byte, lower string, f field) field {
	if message.EqualFold(n, lower) {
		return f
	}
	return fieldNone
}

// Drop marks the fields that Append writes anew, and those that are not
// well-formed, so that they are not forwarded. x-envoy-force-trace is among
// them: the decision that it brought about is in the others.
func Drop(fields []message.Field, c *Context) {
	keep := c.Formats&W3C != 0
	for i := range fields {
		f := &fields[i]
		if f.ID == message.TraceParent {
			f.Drop = true
			continue
		}
		if f.ID != message.Other {
			continue
		}
		switch name(f.Name) {
		case fieldNone:
		case fieldState:
			if _, ok := checkState(f.Value); !ok || !keep {
				f.Drop = true
			}
		default:
			f.Drop = true
		}
	}
}
