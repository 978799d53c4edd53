package message

// Name is an interned header name: one of those that the mesh itself reads,
// writes or removes.
type Name uint8

const (
	Other Name = iota
	Host
	Connection
	ContentLength
	TransferEncoding
	Trailer
	TE
	Upgrade
	Expect
	KeepAlive
	ProxyConnection
	ProxyAuthorization
	ProxyAuthenticate
	Date
	Server
	Location
	UserAgent
	ContentType
	XForwardedFor
	XForwardedProto
	XForwardedClientCert
	XRequestID
	XEnvoyPeerMetadata
	XEnvoyPeerMetadataID
	GRPCStatus
	TraceParent
	names // count
)

var nameText = [names]string{
	Host: "host", Connection: "connection", ContentLength: "content-length",
	TransferEncoding: "transfer-encoding", Trailer: "trailer", TE: "te",
	Upgrade: "upgrade", Expect: "expect", KeepAlive: "keep-alive",
	ProxyConnection: "proxy-connection", ProxyAuthorization: "proxy-authorization",
	ProxyAuthenticate: "proxy-authenticate", Date: "date", Server: "server",
	Location: "location", UserAgent: "user-agent", ContentType: "content-type",
	XForwardedFor: "x-forwarded-for", XForwardedProto: "x-forwarded-proto",
	XForwardedClientCert: "x-forwarded-client-cert", XRequestID: "x-request-id",
	XEnvoyPeerMetadata: "x-envoy-peer-metadata", XEnvoyPeerMetadataID: "x-envoy-peer-metadata-id",
	GRPCStatus: "grpc-status", TraceParent: "traceparent",
}

// String returns the name in lower case; "" for Other.
func (n Name) String() string { return nameText[n] }

// Set is a set of interned names.
type Set uint64

// SetOf returns the set of those names.
func SetOf(list ...Name) Set {
	var s Set
	for _, n := range list {
		s |= 1 << n
	}
	return s
}

// Has reports whether n is in s.
func (s Set) Has(n Name) bool { return s>>n&1 != 0 }

// Intern returns the interned name of b, compared without regard to case.
func Intern(b []byte) Name {
	if len(b) == 0 || len(b) > maxName {
		return Other
	}
	n := slots[len(b)][b[0]&0x1f]
	if n != Other && EqualFold(b, nameText[n]) {
		return n
	}
	return Other
}

const maxName = 25

// slots finds the one name of a length and a first letter (without its case); a test
// holds that no two share them.
var slots = func() (t [maxName + 1][32]Name) {
	for n := Other + 1; n < names; n++ {
		s := nameText[n]
		t[len(s)][s[0]&0x1f] = n
	}
	return t
}()
