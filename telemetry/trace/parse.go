package trace

import "bytes"

// ParseParent reads a traceparent (W3C Trace Context §3.2) into c, and reports
// whether it is well-formed. c is left alone where it is not.
func ParseParent(v []byte, c *Context) bool {
	if len(v) < parentLength || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return false
	}
	var version, flags [1]byte
	var out Context
	if !lowerHex(version[:], v[:2]) || !lowerHex(out.Trace[:], v[parentTrace:35]) ||
		!lowerHex(out.Parent[:], v[parentSpan:52]) || !lowerHex(flags[:], v[parentFlags:parentLength]) {
		return false
	}
	switch {
	case version[0] == 0xff:
		return false
	case version[0] == 0 && len(v) > parentLength:
		return false
	case len(v) > parentLength && v[parentLength] != '-': // a later version may say more
		return false
	case out.Trace == ID{} || out.Parent == SpanID{}:
		return false
	}
	out.Decision, out.Random, out.Formats = Dropped, flags[0]&2 != 0, W3C
	if flags[0]&1 != 0 {
		out.Decision = Sampled
	}
	*c = out
	return true
}

// A traceparent: version "-" trace-id "-" parent-id "-" flags.
const (
	parentLength = 55
	parentTrace  = 3
	parentSpan   = 36
	parentFlags  = 53
)

// ParseB3 reads a b3 field: TRACE-SPAN, TRACE-SPAN-STATE, TRACE-SPAN-STATE-PARENT
// or STATE alone (B3's single header), and reports whether it is well-formed. c
// is left alone where it is not.
func ParseB3(v []byte, c *Context) bool {
	out := Context{Formats: B3Single}
	if len(v) == 1 {
		if !out.state(v) {
			return false
		}
		*c = out
		return true
	}
	id, rest, ok := bytes.Cut(v, dash)
	if !ok || !out.trace(id) {
		return false
	}
	span, rest, more := bytes.Cut(rest, dash)
	if !anyHex(out.Parent[:], span) || out.Parent == (SpanID{}) {
		return false
	}
	if more {
		state, parent, again := bytes.Cut(rest, dash)
		if !out.state(state) {
			return false
		}
		var ignored SpanID // our parent's parent is of no use to us
		if again && !anyHex(ignored[:], parent) {
			return false
		}
	}
	*c = out
	return true
}

var dash = []byte("-")

// parseMulti reads the fields of B3's several. Without an ID they are a decision
// alone.
func parseMulti(traceID, spanID, parentID, sampled, flags []byte, c *Context) bool {
	out := Context{Formats: B3Multi}
	switch {
	case traceID == nil && spanID == nil && parentID == nil:
	case !out.trace(traceID) || !anyHex(out.Parent[:], spanID) || out.Parent == SpanID{}:
		return false
	case parentID != nil:
		var ignored SpanID
		if !anyHex(ignored[:], parentID) {
			return false
		}
	}
	switch string(sampled) {
	case "":
		if sampled != nil {
			return false
		}
	case "1", "true": // the words are of older libraries
		out.Decision = Sampled
	case "0", "false":
		out.Decision = Dropped
	case "d":
		out.Decision = Debug
	default:
		return false
	}
	switch string(flags) {
	case "1":
		out.Decision = Debug
	case "", "0":
	default:
		return false
	}
	*c = out
	return true
}

// trace takes an ID of 64 or 128 bits.
func (c *Context) trace(v []byte) bool {
	switch len(v) {
	case 16:
		c.Short = true
		return anyHex(c.Trace[8:], v) && c.Trace != ID{}
	case 32:
		return anyHex(c.Trace[:], v) && c.Trace != ID{}
	}
	return false
}

func (c *Context) state(v []byte) bool {
	switch string(v) {
	case "0":
		c.Decision = Dropped
	case "1":
		c.Decision = Sampled
	case "d":
		c.Decision = Debug
	default:
		return false
	}
	return true
}

// checkState counts the members of a tracestate, and reports whether it is
// well-formed (W3C Trace Context §3.3.1).
func checkState(v []byte) (members int, ok bool) {
	for len(v) > 0 {
		member, rest, more := bytes.Cut(v, comma)
		v = rest
		if member = bytes.Trim(member, " \t"); len(member) == 0 {
			if !more && members == 0 {
				return 0, false
			}
			continue // empty members are allowed
		}
		key, value, eq := bytes.Cut(member, equals)
		if !eq || !stateKey(key) || !stateValue(value) {
			return members, false
		}
		if members++; members > maxStates {
			return members, false
		}
	}
	return members, true
}

var comma, equals = []byte(","), []byte("=")

func stateKey(k []byte) bool {
	tenant, system, multi := bytes.Cut(k, at)
	if multi {
		return len(tenant) <= 241 && len(system) <= 14 && plainKey(tenant, true) && plainKey(system, false)
	}
	return len(k) <= 256 && plainKey(k, false)
}

var at = []byte("@")

func plainKey(k []byte, digit bool) bool {
	for i, c := range k {
		switch {
		case 'a' <= c && c <= 'z':
		case '0' <= c && c <= '9':
			if i == 0 && !digit {
				return false
			}
		case c == '_' || c == '-' || c == '*' || c == '/':
			if i == 0 {
				return false
			}
		default:
			return false
		}
	}
	return len(k) > 0
}

func stateValue(v []byte) bool {
	for _, c := range v {
		if c < 0x20 || c > 0x7e || c == ',' || c == '=' {
			return false
		}
	}
	return len(v) > 0 && len(v) <= 256 && v[len(v)-1] != ' '
}

// lowerHex decodes exactly len(dst) bytes of lower-case hexadecimal.
func lowerHex(dst, src []byte) bool { return decodeHex(dst, src, false) }

// anyHex takes upper case, too: B3 asks for lower, but its oldest libraries
// write both.
func anyHex(dst, src []byte) bool { return decodeHex(dst, src, true) }

func decodeHex(dst, src []byte, upper bool) bool {
	if len(src) != 2*len(dst) {
		return false
	}
	for i := range dst {
		a, b := digit(src[2*i], upper), digit(src[2*i+1], upper)
		if a|b > 15 {
			return false
		}
		dst[i] = a<<4 | b
	}
	return true
}

// digit is a digit's value; more than 15: it is none.
func digit(c byte, upper bool) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case upper && 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

const hexDigits = "0123456789abcdef"

func appendHex(dst, src []byte) []byte {
	for _, c := range src {
		dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
	}
	return dst
}
