package telemetry

import "strings"

// sensitive are parts of the names of header fields whose values authenticate
// somebody.
var sensitive = [...]string{
	"authorization", "cookie", "token", "secret", "passw", "api-key", "apikey", "credential", "session", "signature", "jwt", "assertion",
}

// Sensitive reports whether the values of a header field are never to be shown,
// whoever asks: they would let the reader pass for the caller. lower is the
// field's name in lower case.
func Sensitive(lower string) bool {
	for _, s := range sensitive {
		if strings.Contains(lower, s) {
			return true
		}
	}
	return false
}
