// Package message is the head of an HTTP message as every codec produces it
// and every decision reads it: slices into a buffer that the codec's caller
// owns. It does no I/O, keeps nothing, and allocates nothing once its slices
// have grown.
package message

// Field is one header field. Name keeps the case that the peer sent.
type Field struct {
	ID   Name // the interned name, Other if it is not one that Seine acts upon
	Hop  bool // for this connection only (RFC 9110 §7.6.1): read, never forwarded; set by the codec
	Drop bool // not to be forwarded; set (and cleared) by whoever decides
	// Never says that no compression on the way may keep it (RFC 7541 §6.2.3). HTTP/2 only.
	Never bool
	// Line is where the field's line starts in the head that it was parsed
	// from, so that an unchanged head is forwarded in whole ranges. HTTP/1 only.
	Line  uint32
	Name  []byte
	Value []byte // without surrounding white space (RFC 9110 §5.5)
}

// Request is a request's head. Every slice points into the buffer that it was
// parsed from and is valid only as long as that buffer is left alone.
type Request struct {
	Method    []byte
	Scheme    []byte // "http" or "https"; empty: not said
	Authority []byte // host[:port], from Host, :authority or the absolute form
	Path      []byte // origin form, with the query; "*" for OPTIONS *
	Minor     uint8  // of HTTP/1.x: 0 or 1
	Absolute  bool   // the request line was in absolute form
	Fields    []Field
}

// Response is a response's head, with the same ownership as Request.
type Response struct {
	Status int
	Reason []byte
	Minor  uint8
	Fields []Field
}

// Get returns the value of the first field with that interned name.
func Get(fields []Field, id Name) ([]byte, bool) {
	for i := range fields {
		if fields[i].ID == id {
			return fields[i].Value, true
		}
	}
	return nil, false
}

// Lookup returns the value of the first field with that name, compared without
// regard to ASCII case; lower must be in lower case.
func Lookup(fields []Field, lower string) ([]byte, bool) {
	for i := range fields {
		if EqualFold(fields[i].Name, lower) {
			return fields[i].Value, true
		}
	}
	return nil, false
}

// EqualFold reports whether name equals lower, which must be in lower case,
// without regard to ASCII case.
func EqualFold(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
