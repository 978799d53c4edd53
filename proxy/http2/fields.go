package http2

import (
	"bytes"

	"github.com/seinemesh/seine/message"
)

// framing is what a request's head says of the stream.
type framing struct {
	length   int64 // Content-Length; -1: none
	head     bool  // HEAD
	connect  bool
	protocol []byte
}

// lowName says of each byte whether a field name may hold it (RFC 9113 §8.2.1).
var lowName = func() (t [256]bool) {
	t = message.Token
	for c := 'A'; c <= 'Z'; c++ {
		t[c] = false
	}
	return t
}()

// perHop are the fields of HTTP/1's connections (RFC 9113 §8.2.2).
const perHop = 1<<message.Connection | 1<<message.KeepAlive | 1<<message.ProxyConnection |
	1<<message.TransferEncoding | 1<<message.Upgrade

// field checks one that is no pseudo-header field.
func field(f *message.Field) *Error {
	if len(f.Name) == 0 {
		return errName
	}
	for _, c := range f.Name {
		if !lowName[c] {
			if c == ':' && f.Name[0] == ':' {
				return errPseudoLate
			}
			return errName
		}
	}
	if !message.ValidValue(f.Value) {
		return errValue
	}
	switch {
	case f.ID == message.Other:
		return nil
	case perHop>>f.ID&1 != 0:
		return errConnection
	case f.ID == message.TE && !message.EqualFold(f.Value, "trailers"):
		return errTE
	}
	return nil
}

// set sets a pseudo-header field that must not come twice.
func set(p *[]byte, v []byte) *Error {
	if *p != nil {
		return errPseudoTwice
	}
	if v == nil {
		v = []byte{}
	}
	*p = v
	return nil
}

// parseRequest checks a request's fields and takes the pseudo-header fields out of them.
func parseRequest(fields []message.Field, req *message.Request, o *Options) (f framing, err *Error) {
	*req = message.Request{Minor: 1}
	i := 0
	for ; i < len(fields) && len(fields[i].Name) > 0 && fields[i].Name[0] == ':'; i++ {
		v := fields[i].Value
		switch string(fields[i].Name) {
		case ":method":
			err = set(&req.Method, v)
		case ":scheme":
			err = set(&req.Scheme, v)
		case ":authority":
			err = set(&req.Authority, v)
		case ":path":
			err = set(&req.Path, v)
		case ":protocol":
			if err = set(&f.protocol, v); !o.ExtendedConnect {
				err = errProtocol
			}
		default:
			err = errPseudo
		}
		if err != nil {
			return f, err
		}
	}
	req.Fields = fields[i:]
	if len(req.Fields) > o.Fields {
		return f, errHead
	}
	f.length = -1
	var host []byte
	for i := range req.Fields {
		p := &req.Fields[i]
		if err = field(p); err != nil {
			return f, err
		}
		switch p.ID {
		case message.Host:
			if host != nil {
				return f, errHost
			}
			if _, ok := message.Authority(p.Value); !ok {
				return f, errAuthority
			}
			host = p.Value
		case message.ContentLength:
			if f.length >= 0 {
				return f, errLengthField
			}
			if f.length = number(p.Value); f.length < 0 {
				return f, errLengthField
			}
		}
	}
	if !message.ValidName(req.Method) {
		if req.Method == nil {
			return f, errPseudoMissing
		}
		return f, errMethod
	}
	port := 0
	if req.Authority != nil {
		var ok bool
		if port, ok = message.Authority(req.Authority); !ok {
			return f, errAuthority
		}
		if host != nil && !bytes.EqualFold(host, req.Authority) {
			return f, errHost
		}
	}
	switch string(req.Method) {
	case "HEAD":
		f.head = true
	case "CONNECT":
		f.connect = true
		if f.length > 0 {
			return f, errConnect
		}
		if f.protocol == nil {
			if req.Scheme != nil || req.Path != nil || port == 0 {
				return f, errConnect
			}
			return f, nil
		}
		if !message.ValidName(f.protocol) || req.Authority == nil {
			return f, errProtocol
		}
	}
	if f.protocol != nil && !f.connect {
		return f, errProtocol
	}
	return f, target(req, host)
}

// target checks the scheme, path and authority of all but CONNECT.
func target(req *message.Request, host []byte) *Error {
	switch string(req.Scheme) {
	case "http", "https":
	default:
		if req.Scheme == nil {
			return errPseudoMissing
		}
		return errScheme
	}
	switch p := req.Path; {
	case p == nil:
		return errPseudoMissing
	case !validPath(req.Method, p):
		return errPath
	}
	if req.Authority == nil {
		if host == nil {
			return errNoHost
		}
		req.Authority = host
	}
	return nil
}

func validPath(method, p []byte) bool {
	if len(p) == 1 && p[0] == '*' {
		return string(method) == "OPTIONS"
	}
	return len(p) > 0 && p[0] == '/' && message.ValidTarget(p) && message.Path(p) < 0
}

// number is a Content-Length; -1: it is none.
func number(v []byte) int64 {
	if len(v) == 0 || len(v) > 19 {
		return -1
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + uint64(c-'0')
	}
	if n > 1<<63-1 {
		return -1
	}
	return int64(n)
}

// parseResponse checks a response's fields and takes :status out of them.
func parseResponse(fields []message.Field, res *message.Response) (length int64, err *Error) {
	*res = message.Response{Minor: 1}
	i := 0
	for ; i < len(fields) && len(fields[i].Name) > 0 && fields[i].Name[0] == ':'; i++ {
		v := fields[i].Value
		switch {
		case string(fields[i].Name) != ":status":
			return -1, errPseudo
		case i > 0:
			return -1, errPseudoTwice
		case len(v) != 3 || v[0] < '1' || v[0] > '9' || v[1] < '0' || v[1] > '9' || v[2] < '0' || v[2] > '9':
			return -1, errStatus
		}
		res.Status = int(v[0]-'0')*100 + int(v[1]-'0')*10 + int(v[2]-'0')
	}
	switch {
	case i == 0:
		return -1, errPseudoMissing
	case res.Status == 101:
		return -1, errSwitch
	}
	res.Fields = fields[i:]
	length = -1
	for i := range res.Fields {
		p := &res.Fields[i]
		if err = field(p); err != nil {
			return -1, err
		}
		if p.ID == message.ContentLength {
			if res.Status < 200 {
				return -1, errInterimLength
			}
			if length >= 0 {
				return -1, errLengthField
			}
			if length = number(p.Value); length < 0 {
				return -1, errLengthField
			}
		}
	}
	return length, nil
}

func checkTrailers(fields []message.Field) *Error {
	for i := range fields {
		p := &fields[i]
		if len(p.Name) > 0 && p.Name[0] == ':' {
			return errPseudo
		}
		if err := field(p); err != nil {
			return err
		}
		if !message.MayTrail(p.Name) {
			return errTrailer
		}
	}
	return nil
}
