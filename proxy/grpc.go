//go:build linux

package proxy

import (
	"bytes"
	"strconv"

	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/telemetry"
)

// gRPC's statuses that a proxy gives by itself.
const (
	grpcUnknown          = 2
	grpcDeadline         = 4
	grpcPermissionDenied = 7
	grpcExhausted        = 8
	grpcUnimplemented    = 12
	grpcInternal         = 13
	grpcUnavailable      = 14
	grpcUnauthenticated  = 16
)

var grpcText = [...]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"}

var contentGRPC = []byte("application/grpc")

// gRPC notes what a request's head says of gRPC: whether it is that, and its deadline.
func (x *exchange) gRPC(req *message.Request) {
	x.grpcStatus = -1
	v, ok := message.Get(req.Fields, message.ContentType)
	if !ok || !bytes.HasPrefix(v, contentGRPC) || len(v) > len(contentGRPC) && v[len(contentGRPC)] != '+' && v[len(contentGRPC)] != ';' {
		return
	}
	x.grpc = true
	if t, ok := message.Lookup(req.Fields, "grpc-timeout"); ok {
		x.deadline = grpcTimeout(t)
	}
}

// grpcTimeout reads a grpc-timeout (at most eight digits and a unit) in
// nanoseconds; 0: it is none.
func grpcTimeout(v []byte) int64 {
	if len(v) < 2 || len(v) > 9 {
		return 0
	}
	var n int64
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	unit := int64(0)
	switch v[len(v)-1] {
	case 'H':
		unit = 3600e9
	case 'M':
		unit = 60e9
	case 'S':
		unit = 1e9
	case 'm':
		unit = 1e6
	case 'u':
		unit = 1e3
	case 'n':
		unit = 1
	}
	if unit > 0 && n > 1<<62/unit {
		return 1 << 62
	}
	return max(n*unit, unit) // a deadline of nothing is one, too
}

// grpcNumber reads a grpc-status; 2 (UNKNOWN) for what is none.
func grpcNumber(v []byte) int {
	if len(v) == 0 || len(v) > 2 {
		return grpcUnknown
	}
	n, err := strconv.Atoi(string(v))
	if err != nil || n < 0 {
		return grpcUnknown
	}
	return n
}

// meaning is the HTTP status that a grpc-status stands for (Envoy's
// Grpc::Utility::grpcToHttpStatus).
var meaning = [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// means is what the answer says of its endpoint, as an HTTP status: a call that
// failed is HTTP 200 all the same.
func (x *exchange) means() int {
	if !x.grpc || x.status != 200 || x.grpcStatus < 0 {
		return x.status
	}
	if x.grpcStatus >= len(meaning) {
		return 500
	}
	return meaning[x.grpcStatus]
}

// grpcFor is the grpc-status of an answer of our own with that HTTP status
// (gRPC's http-grpc-status-mapping), and DEADLINE_EXCEEDED where time is what
// ran out.
func (x *exchange) grpcFor(status int) int {
	switch {
	case x.shape.grpcAbort:
		return x.shape.grpcStatus
	case x.flag == telemetry.FlagUT:
		return grpcDeadline
	case status == 400 || status == 431:
		return grpcInternal
	case status == 401:
		return grpcUnauthenticated
	case status == 403:
		return grpcPermissionDenied
	case status == 404:
		return grpcUnimplemented
	case status == 429 || status == 502 || status == 503 || status == 504:
		return grpcUnavailable
	}
	return grpcUnknown
}

// grpcAnswer turns the answer of our own in worker.res and edit2 into one that
// gRPC's clients understand: 200 with nothing but a head that is trailers, too.
func (x *exchange) grpcAnswer(status int) {
	w := x.w
	n := x.grpcFor(status)
	x.grpcStatus = n
	x.status, w.res.Status = 200, 200
	w.text3 = grpcMessage(w.text3[:0], x.cause)
	w.edit2.Add = append(w.edit2.Add,
		message.Field{Name: bytesOf("content-type"), Value: contentGRPC},
		message.Field{Name: bytesOf("grpc-status"), Value: bytesOf(grpcText[n])},
		message.Field{Name: bytesOf("grpc-message"), Value: w.text3})
}

// grpcMessage appends s as a grpc-message: what is not printable ASCII, and "%",
// in percent encoding.
func grpcMessage(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			continue
		}
		dst = append(dst, s[i])
	}
	return dst
}

func appendInt(dst []byte, n int) []byte { return strconv.AppendInt(dst, int64(n), 10) }
