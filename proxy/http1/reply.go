package http1

import (
	"strconv"

	"github.com/seinemesh/seine/message"
)

const (
	// Continue is the interim response that lets a client send its body.
	Continue = "HTTP/1.1 100 Continue\r\n\r\n"
	// Established answers CONNECT: a tunnel begins after it.
	Established = "HTTP/1.1 200 OK\r\n\r\n"
	// LastChunk ends a chunked body without trailers; CRLF ends each chunk's data.
	LastChunk = "0\r\n\r\n"
	CRLF      = "\r\n"
)

// AppendSimple appends a whole response of Seine's own: text/plain, with
// Content-Length and "server: seine". With head it is the answer to HEAD: no
// body. The fields of extra (connection: close, location, …) follow;
// content-type and server among them replace ours. One that no head may hold, or that
// frames the message, is left out, so that nothing from outside can split the response.
func AppendSimple(dst []byte, status int, body string, head bool, extra ...message.Field) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(append(dst, StatusText(status)...), '\r', '\n')
	if status >= 200 && status != 204 && status != 304 {
		dst = append(dst, "content-length: "...)
		dst = strconv.AppendInt(dst, int64(len(body)), 10)
		dst = append(dst, '\r', '\n')
	} else {
		body = ""
	}
	var given message.Set
	for i := range extra {
		p := &extra[i]
		id := message.Intern(p.Name)
		if !message.ValidName(p.Name) || !message.ValidValue(p.Value) || frames>>id&1 != 0 {
			continue
		}
		given |= message.SetOf(id)
		dst = append(append(dst, p.Name...), ": "...)
		dst = append(append(dst, p.Value...), '\r', '\n')
	}
	if len(body) > 0 && !given.Has(message.ContentType) {
		dst = append(dst, "content-type: text/plain\r\n"...)
	}
	if !given.Has(message.Server) {
		dst = append(dst, "server: seine\r\n"...)
	}
	dst = append(dst, '\r', '\n')
	if head {
		return dst
	}
	return append(dst, body...)
}

// AppendChunk appends the size line of a chunk of n bytes, n > 0; the data and
// CRLF follow it.
func AppendChunk(dst []byte, n int) []byte {
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, '\r', '\n')
}

// StatusText is the reason phrase of a status code, "" if it is not a known one.
func StatusText(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 103:
		return "Early Hints"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 203:
		return "Non-Authoritative Information"
	case 204:
		return "No Content"
	case 205:
		return "Reset Content"
	case 206:
		return "Partial Content"
	case 300:
		return "Multiple Choices"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 402:
		return "Payment Required"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 406:
		return "Not Acceptable"
	case 407:
		return "Proxy Authentication Required"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 410:
		return "Gone"
	case 411:
		return "Length Required"
	case 412:
		return "Precondition Failed"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 415:
		return "Unsupported Media Type"
	case 416:
		return "Range Not Satisfiable"
	case 417:
		return "Expectation Failed"
	case 418:
		return "I'm a teapot"
	case 421:
		return "Misdirected Request"
	case 422:
		return "Unprocessable Content"
	case 423:
		return "Locked"
	case 424:
		return "Failed Dependency"
	case 425:
		return "Too Early"
	case 426:
		return "Upgrade Required"
	case 428:
		return "Precondition Required"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 451:
		return "Unavailable For Legal Reasons"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	case 507:
		return "Insufficient Storage"
	case 508:
		return "Loop Detected"
	case 511:
		return "Network Authentication Required"
	}
	return ""
}
