package http2

// Code is an error code of RFC 9113 §7.
type Code uint32

const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

var codeText = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func (c Code) String() string {
	if int(c) < len(codeText) {
		return codeText[c]
	}
	return "UNKNOWN_ERROR"
}

// Error is why a stream is reset or a connection ends. All of them are made
// beforehand; compare by pointer or read the fields.
type Error struct {
	Code   Code
	Reason string // in plain English, for the log
	Clause string // what it breaks, as "RFC 9113 §8.3"
	Limit  string // the field of Limits that was hit, if it was one
}

func (e *Error) Error() string { return e.Reason + " (" + e.Clause + ")" }

func law(code Code, reason, clause string) *Error {
	return &Error{Code: code, Reason: reason, Clause: clause}
}

func bound(limit, reason, clause string) *Error {
	return &Error{Code: EnhanceYourCalm, Reason: reason, Clause: clause, Limit: limit}
}

// What ends a connection.
var (
	errPreface       = law(ProtocolError, "not HTTP/2's connection preface", "RFC 9113 §3.4")
	errNoSettings    = law(ProtocolError, "the first frame is not SETTINGS", "RFC 9113 §3.4")
	errFrameSize     = law(FrameSizeError, "a frame larger than SETTINGS_MAX_FRAME_SIZE", "RFC 9113 §4.2")
	errFrameLength   = law(FrameSizeError, "a frame whose length its type does not allow", "RFC 9113 §4.2")
	errStreamZero    = law(ProtocolError, "a frame of a stream on stream 0", "RFC 9113 §5.1.1")
	errNotZero       = law(ProtocolError, "a frame of the connection on a stream", "RFC 9113 §5.1.1")
	errPadding       = law(ProtocolError, "padding longer than the frame", "RFC 9113 §6.1")
	errInterleaved   = law(ProtocolError, "another frame inside a header block", "RFC 9113 §6.10")
	errContinuation  = law(ProtocolError, "CONTINUATION without a header block", "RFC 9113 §6.10")
	errIdle          = law(ProtocolError, "a frame on a stream that is idle", "RFC 9113 §5.1")
	errStreamID      = law(ProtocolError, "a stream number that is not the peer's to open, or not above the last", "RFC 9113 §5.1.1")
	errHeadersClosed = law(StreamClosed, "HEADERS on a stream that is closed", "RFC 9113 §5.1")
	errPush          = law(ProtocolError, "PUSH_PROMISE although push is off", "RFC 9113 §8.4")
	errCompression   = law(CompressionError, "a header block that cannot be decompressed", "RFC 9113 §4.3")
	errSettingsAck   = law(FrameSizeError, "an acknowledgement of SETTINGS with content", "RFC 9113 §6.5")
	errSettingsPush  = law(ProtocolError, "SETTINGS_ENABLE_PUSH that is not 0 or, of a client, 1", "RFC 9113 §6.5.2")
	errSettingsFlow  = law(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE beyond 2^31-1", "RFC 9113 §6.5.2")
	errSettingsFrame = law(ProtocolError, "SETTINGS_MAX_FRAME_SIZE outside its range", "RFC 9113 §6.5.2")
	errSettingsConn  = law(ProtocolError, "SETTINGS_ENABLE_CONNECT_PROTOCOL that is not 0 or 1, or goes back", "RFC 8441 §3")
	errSettingsRaise = law(FlowControlError, "a changed initial window raises a stream's beyond 2^31-1", "RFC 9113 §6.9.2")
	errConnWindow    = law(FlowControlError, "the connection's window raised beyond 2^31-1", "RFC 9113 §6.9.1")
	errConnUpdate    = law(ProtocolError, "WINDOW_UPDATE of zero for the connection", "RFC 9113 §6.9")
	errConnFlow      = law(FlowControlError, "more data than the connection's window", "RFC 9113 §6.9.1")
	errGoAwayLast    = law(ProtocolError, "GOAWAY that raises its last stream", "RFC 9113 §6.8")

	errBlock     = bound("Block", "a header block beyond the limit", "RFC 9113 §10.5.1")
	errFragments = bound("Fragments", "too many CONTINUATION frames", "RFC 9113 §10.5")
	errResets    = bound("Resets", "too many streams are reset", "RFC 9113 §10.5")
	errPings     = bound("Pings", "too many PING frames", "RFC 9113 §10.5")
	errSettings  = bound("Settings", "too many SETTINGS frames", "RFC 9113 §10.5")
	errIdleFlood = bound("Idle", "too many frames that move nothing", "RFC 9113 §10.5")
	errUpdates   = bound("Updates", "too many WINDOW_UPDATE frames", "RFC 9113 §10.5")
	errReplies   = bound("Replies", "the peer asks and does not read the answers", "RFC 9113 §10.5")
)

// What resets a stream.
var (
	errClosed      = law(StreamClosed, "a frame on a stream whose sender has ended it", "RFC 9113 §5.1")
	errSelf        = law(ProtocolError, "a stream that depends on itself", "RFC 7540 §5.3.1")
	errPriority    = law(FrameSizeError, "PRIORITY that is not five bytes long", "RFC 9113 §6.3")
	errFlow        = law(FlowControlError, "more data than the stream's window", "RFC 9113 §6.9.1")
	errWindow      = law(FlowControlError, "the stream's window raised beyond 2^31-1", "RFC 9113 §6.9.1")
	errUpdate      = law(ProtocolError, "WINDOW_UPDATE of zero", "RFC 9113 §6.9")
	errRefused     = &Error{RefusedStream, "more streams than SETTINGS_MAX_CONCURRENT_STREAMS", "RFC 9113 §5.1.2", "Streams"}
	errGoing       = law(RefusedStream, "a stream opened after GOAWAY", "RFC 9113 §6.8")
	errHead        = bound("Head", "the header list is too large", "RFC 9113 §10.5.1")
	errBeforeHead  = law(ProtocolError, "data before a final response", "RFC 9113 §8.1")
	errTunnel      = law(ProtocolError, "a header block inside a tunnel", "RFC 9113 §8.5")
	errTrailersEnd = law(ProtocolError, "trailers that do not end the stream", "RFC 9113 §8.1")
	errLength      = law(ProtocolError, "content that is not as long as Content-Length says", "RFC 9113 §8.1.1")

	errName          = law(ProtocolError, "a field name that is not a token in lower case", "RFC 9113 §8.2.1")
	errValue         = law(ProtocolError, "a field value with control bytes, or white space around it", "RFC 9113 §8.2.1")
	errConnection    = law(ProtocolError, "a field that is for a connection of HTTP/1", "RFC 9113 §8.2.2")
	errTE            = law(ProtocolError, "TE that says anything but trailers", "RFC 9113 §8.2.2")
	errPseudoLate    = law(ProtocolError, "a pseudo-header field after a field", "RFC 9113 §8.3")
	errPseudo        = law(ProtocolError, "a pseudo-header field that is not defined here", "RFC 9113 §8.3")
	errPseudoTwice   = law(ProtocolError, "a pseudo-header field twice", "RFC 9113 §8.3")
	errPseudoMissing = law(ProtocolError, "a pseudo-header field is missing", "RFC 9113 §8.3.1")
	errMethod        = law(ProtocolError, "the method is not a token", "RFC 9110 §9.1")
	errScheme        = law(ProtocolError, "the scheme is not http or https", "RFC 9113 §8.3.1")
	errPath          = law(ProtocolError, ":path is no path", "RFC 9113 §8.3.1")
	errAuthority     = law(ProtocolError, ":authority or Host is not host or host:port", "RFC 9113 §8.3.1")
	errHost          = law(ProtocolError, ":authority and Host disagree, or Host comes twice", "RFC 9113 §8.3.1")
	errNoHost        = law(ProtocolError, "neither :authority nor Host", "RFC 9113 §8.3.1")
	errConnect       = law(ProtocolError, "CONNECT with :scheme or :path, or without host:port", "RFC 9113 §8.5")
	errProtocol      = law(ProtocolError, ":protocol that was not offered or is not in a CONNECT", "RFC 8441 §4")
	errLengthField   = law(ProtocolError, "Content-Length is not one decimal number", "RFC 9110 §8.6")
	errStatus        = law(ProtocolError, ":status is not three digits from 100 on", "RFC 9113 §8.3.2")
	errSwitch        = law(ProtocolError, "101 in HTTP/2", "RFC 9113 §8.6")
	errInterimEnd    = law(ProtocolError, "an interim response that ends the stream", "RFC 9113 §8.1")
	errInterimLength = law(ProtocolError, "Content-Length in an interim response", "RFC 9110 §8.6")
	errTrailer       = law(ProtocolError, "a trailer field that frames, routes or authenticates", "RFC 9110 §6.5.1")
)

// What a caller asked for and cannot have.
var (
	ErrAdded  = law(InternalError, "a field to be added is malformed or frames the message", "RFC 9110 §5.5")
	ErrTarget = law(InternalError, "the new path, scheme or authority is malformed", "RFC 9113 §8.3.1")
	ErrState  = law(InternalError, "the stream cannot take this now", "RFC 9113 §5.1")
	ErrOpen   = law(InternalError, "the connection takes no further stream now", "RFC 9113 §5.1.2")
)
