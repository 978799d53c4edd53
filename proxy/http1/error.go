package http1

import "strings"

// Error is why a message is refused. All of them are made beforehand; compare
// by pointer or read the fields.
type Error struct {
	Status int    // to answer with: 400, 414, 417, 431, 501, 505; 502 for a bad response; 500 for a bad Edit
	Reason string // in plain English, for the log and the answer's body
	Clause string // what it breaks, as "RFC 9112 §6.3"
}

// Error is plain ASCII, so that it may stand in a header field.
func (e *Error) Error() string {
	return e.Reason + " (" + strings.ReplaceAll(e.Clause, "§", "section ") + ")"
}

// side tells whose message it is: a client's, or an upstream's.
type side uint8

const (
	request side = iota
	response
)

// rule is one Error for either side: the status differs, the law does not.
type rule [2]Error

func (r *rule) on(s side) *Error { return &r[s] }

func law(status int, reason, clause string) *rule {
	return &rule{
		request:  {Status: status, Reason: reason, Clause: clause},
		response: {Status: 502, Reason: "bad response: " + reason, Clause: clause},
	}
}

// The start line.
var (
	lawEmptyLines  = law(400, "more than one empty line before the request line", "RFC 9112 §2.2")
	lawMethod      = law(400, "the method is not a token", "RFC 9110 §9.1")
	lawMethodLong  = law(501, "the method is longer than any known", "RFC 9112 §3")
	lawRequestLine = law(400, "the request line is not method, target and version with one space between", "RFC 9112 §3")
	lawTargetByte  = law(400, "a byte in the request target that a URI cannot hold", "RFC 9112 §3.2")
	lawFragment    = law(400, "a fragment in the request target", "RFC 9110 §7.1")
	lawEscape      = law(400, "a % in the path without two hexadecimal digits", "RFC 3986 §2.1")
	lawTargetLong  = law(414, "the request line is too long", "RFC 9112 §3")
	lawVersion     = law(400, "the protocol version is not HTTP/ digit . digit", "RFC 9112 §2.3")
	lawMajor       = law(505, "the version is not HTTP/1", "RFC 9110 §15.6.6")
	lawAsterisk    = law(400, "the target * is for OPTIONS alone", "RFC 9112 §3.2.4")
	lawConnectForm = law(400, "the target of CONNECT is not host:port", "RFC 9112 §3.2.3")
	lawScheme      = law(400, "the target is no path, and no http or https URI", "RFC 9112 §3.2")
	lawUserinfo    = law(400, "user information in an authority", "RFC 9110 §4.2.4")
	lawAuthority   = law(400, "the target's authority is not host or host:port", "RFC 9110 §4.2.1")
	lawStatusLine  = law(400, "the status line is not version, three digits and reason with one space between", "RFC 9112 §4")
	lawStatus      = law(400, "the status code is below 100", "RFC 9110 §15")
)

// The fields.
var (
	lawHead       = law(431, "the head is too large", "RFC 6585 §5")
	lawFields     = law(431, "too many header fields", "RFC 6585 §5")
	lawBareCR     = law(400, "a CR without LF", "RFC 9112 §2.2")
	lawBareLF     = law(400, "an LF without CR", "RFC 9112 §2.2")
	lawFold       = law(400, "a field value folded over several lines", "RFC 9112 §5.2")
	lawSpaceFirst = law(400, "white space between the start line and the first field", "RFC 9112 §2.2")
	lawSpaceColon = law(400, "white space between a field name and its colon", "RFC 9112 §5.1")
	lawNameEmpty  = law(400, "a field without a name", "RFC 9110 §5.1")
	lawName       = law(400, "a field name that is not a token", "RFC 9110 §5.1")
	lawColon      = law(400, "a field line without a colon", "RFC 9112 §5")
	lawValue      = law(400, "a control byte in a field value", "RFC 9110 §5.5")
)

// What the fields mean together.
var (
	lawHostMissing  = law(400, "no Host field", "RFC 9112 §3.2")
	lawHostTwice    = law(400, "more than one Host field", "RFC 9112 §3.2")
	lawHost         = law(400, "the Host field is not host or host:port", "RFC 9112 §3.2")
	lawHostDiffers  = law(400, "the target's authority and Host disagree", "RFC 9112 §3.2.2")
	lawLength       = law(400, "Content-Length is not a decimal number below 2^63", "RFC 9110 §8.6")
	lawLengthTwice  = law(400, "more than one Content-Length", "RFC 9112 §6.3")
	lawBoth         = law(400, "both Content-Length and Transfer-Encoding", "RFC 9112 §6.1")
	lawCodingOld    = law(400, "Transfer-Encoding in HTTP/1.0", "RFC 9112 §6.1")
	lawCodingLast   = law(400, "Transfer-Encoding does not end in chunked", "RFC 9112 §6.3")
	lawCodingTwice  = law(400, "chunked applied more than once", "RFC 9112 §6.1")
	lawCodingParam  = law(400, "chunked with a parameter", "RFC 9112 §7.1")
	lawCodingEmpty  = law(400, "an empty element in Transfer-Encoding", "RFC 9110 §5.6.1.1")
	lawCodingOther  = law(501, "a transfer coding other than chunked", "RFC 9112 §6.1")
	lawExpect       = law(417, "an expectation other than 100-continue", "RFC 9110 §10.1.1")
	lawExpectEmpty  = law(400, "Expect: 100-continue without content", "RFC 9110 §10.1.1")
	lawConnection   = law(400, "a connection option that is not a token", "RFC 9110 §7.6.1")
	lawOptions      = law(431, "too many connection options", "RFC 6585 §5")
	lawNominated    = law(400, "Connection names a field that is for every recipient", "RFC 9110 §7.6.1")
	lawConnectBody  = law(400, "CONNECT with content", "RFC 9110 §9.3.6")
	lawTraceBody    = law(400, "TRACE with content", "RFC 9110 §9.3.8")
	lawNoBodyLength = law(400, "Content-Length in a response that has no content", "RFC 9110 §8.6")
	lawNoBodyCoding = law(400, "Transfer-Encoding in a response that has no content", "RFC 9112 §6.1")
	lawSwitch       = law(400, "101 that nobody asked for", "RFC 9110 §7.8")
	lawSwitchEmpty  = law(400, "101 without Upgrade and its connection option", "RFC 9110 §7.8")
)

// The body.
var (
	lawChunkSize    = law(400, "a chunk size that is not hexadecimal", "RFC 9112 §7.1")
	lawChunkBig     = law(400, "a chunk size beyond 2^63", "RFC 9112 §7.1")
	lawChunkLine    = law(400, "a chunk size followed by something that is no extension", "RFC 9112 §7.1.1")
	lawChunkExt     = law(400, "a malformed chunk extension", "RFC 9112 §7.1.1")
	lawChunkExtBig  = law(400, "chunk extensions beyond the limit", "RFC 9112 §7.1.1")
	lawChunkEnd     = law(400, "chunk data not followed by CRLF", "RFC 9112 §7.1")
	lawTrailer      = law(400, "a trailer field that frames, routes or authenticates", "RFC 9110 §6.5.1")
	lawTrailersBig  = law(431, "the trailer section is too large", "RFC 6585 §5")
	lawBodyCut      = law(400, "the connection closed before the message was complete", "RFC 9112 §8")
	lawAdded        = law(500, "a field to be added is malformed or frames the message", "RFC 9110 §5.5")
	lawEditTarget   = law(500, "the new request target is malformed", "RFC 9112 §3.2")
	lawEditHost     = law(500, "the new authority is malformed", "RFC 9112 §3.2")
	lawHostToDecide = law(400, "an HTTP/1.0 request without Host, and no other authority for it", "RFC 9112 §3.2")
)
