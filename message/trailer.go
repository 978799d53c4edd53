package message

// MayTrail reports whether a field, named in lower case, may be a trailer. RFC 9110
// §6.5.1 forbids all that frame the message, route it, authenticate, or say how
// the content is to be read; and what the mesh states itself must not come in
// by the back door.
func MayTrail(name []byte) bool {
	switch string(name) {
	case "host", "content-length", "transfer-encoding", "trailer", "connection", "keep-alive", "proxy-connection",
		"te", "upgrade", "expect", "max-forwards", "range", "content-encoding", "content-type", "content-range",
		"authorization", "proxy-authorization", "proxy-authenticate", "www-authenticate", "cookie", "set-cookie",
		"cache-control", "forwarded", "location", "age", "date", "expires", "vary":
		return false
	}
	for _, p := range ownPrefix {
		if len(name) >= len(p) && string(name[:len(p)]) == p {
			return false
		}
	}
	return true
}

var ownPrefix = [...]string{"x-forwarded-", "x-envoy-", "x-seine-", "x-b3-"}
