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
	// Length and a folded first byte tell nearly all of them apart.
	if len(b) == 0 {
		return Other
	}
	for _, n := range byLength[min(len(b), maxName)] {
		if EqualFold(b, nameText[n]) {
			return n
		}
	}
	return Other
}

const maxName = 25

var byLength = func() (t [maxName + 1][]Name) {
	for n := Other + 1; n < names; n++ {
		l := len(nameText[n])
		t[l] = append(t[l], n)
	}
	return t
}()
