package decide

import (
	"slices"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// Pair is a header field to be written.
type Pair struct{ Name, Value string }

// Edits are changes to a message's header: fields that are dropped from the
// original, then fields that are added. A nil *Edits changes nothing.
type Edits struct {
	drop    []string // lower case
	lengths uint64   // bit min(len, 63) of every dropped name
	added   []Pair
}

// Drops reports whether fields of the original with that name (any case) are
// not to be written.
func (e *Edits) Drops(name []byte) bool {
	if e == nil || e.lengths&(1<<min(len(name), 63)) == 0 {
		return false
	}
	for _, d := range e.drop {
		if message.EqualFold(name, d) {
			return true
		}
	}
	return false
}

// Added are the fields to write after the original's, in order; names are in
// lower case.
func (e *Edits) Added() []Pair {
	if e == nil {
		return nil
	}
	return e.added
}

// Removed are the names whose original fields are dropped, in lower case: those
// that are removed and those that are set anew.
func (e *Edits) Removed() []string {
	if e == nil {
		return nil
	}
	return e.drop
}

// Editable reports whether header operations may touch a field. Those that
// frame the message or belong to one connection are the proxy's own: changing
// them would let a message be read differently behind the proxy. Host is not a
// field but the authority, and is rewritten as such.
func Editable(name string) bool {
	switch lower(name) {
	case "", "host", "connection", "content-length", "transfer-encoding", "keep-alive",
		"proxy-connection", "te", "trailer", "upgrade", "http2-settings":
		return false
	}
	return name[0] != ':'
}

// level is one HeaderOps of a route, or several that Istio puts into one.
// Within a level Envoy removes, then sets, then adds.
type level []*seinev1.HeaderOps

// compose makes the edits of levels that are applied one after the other.
func compose(levels ...level) (*Edits, error) {
	e := &Edits{}
	drop := func(name string) {
		if !slices.Contains(e.drop, name) {
			e.drop = append(e.drop, name)
			e.lengths |= 1 << min(len(name), 63)
		}
		e.added = slices.DeleteFunc(e.added, func(p Pair) bool { return p.Name == name })
	}
	for _, l := range levels {
		for _, ops := range l {
			for _, name := range ops.GetRemove() {
				if Editable(name) {
					drop(lower(name))
				}
			}
		}
		for _, ops := range l {
			for _, h := range ops.GetSet() {
				v, ok, err := headerValue(h)
				if err != nil {
					return nil, err
				}
				if ok {
					drop(lower(h.Name))
					e.added = append(e.added, Pair{lower(h.Name), v})
				}
			}
		}
		for _, ops := range l {
			for _, h := range ops.GetAdd() {
				v, ok, err := headerValue(h)
				if err != nil {
					return nil, err
				}
				if ok {
					e.added = append(e.added, Pair{lower(h.Name), v})
				}
			}
		}
	}
	if len(e.drop) == 0 && len(e.added) == 0 {
		return nil, nil
	}
	return e, nil
}

// headerValue is the value to write; false if nothing is to be done: Envoy
// leaves an empty value out unless told otherwise, which Istio never does.
func headerValue(h *seinev1.Header) (string, bool, error) {
	if !Editable(h.Name) || h.Value == "" {
		return "", false, nil
	}
	if !token(h.Name) {
		return "", false, invalid("%q is no header name", h.Name)
	}
	if !fieldText(h.Value) {
		return "", false, invalid("the value of header %q holds a control character", h.Name)
	}
	return h.Value, true, nil
}

// authorityOf is the authority that header operations set, as Istio reads
// them: Host and :authority, "set" before "add".
func authorityOf(ops *seinev1.HeaderOps) string {
	for _, list := range [][]*seinev1.Header{ops.GetSet(), ops.GetAdd()} {
		for _, h := range list {
			if n := lower(h.Name); n == "host" || n == ":authority" {
				return h.Value
			}
		}
	}
	return ""
}

// fieldText reports whether s may stand in a header field (RFC 9110 §5.5).
func fieldText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// token reports whether s is a token (RFC 9110 §5.6.2).
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
