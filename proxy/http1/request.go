package http1

import (
	"bytes"

	"github.com/seinemesh/seine/message"
)

// ParseRequest parses the request head that buf begins with into req, whose
// slices then point into buf. It returns the head's length and how its body is
// framed. n == 0 and err == nil: the head is not complete yet, call again with
// the same bytes and more. One empty line before the request line is skipped
// (RFC 9112 §2.2) and counted in n.
//
// It allocates nothing but what req.Fields grows by, and the path of the rare
// absolute form that has a query and no path.
func ParseRequest(buf []byte, req *message.Request, lim *Limits) (n int, f Framing, err *Error) {
	l := lim.get()
	head := whole(buf)
	if head == nil {
		return 0, f, partialRequest(buf, req, &l)
	}
	i, err := requestLine(head, req, &l)
	if err != nil {
		return 0, f, err
	}
	p, err := parseFields(head, i, req.Fields[:0], l.Fields, request)
	if err != nil {
		req.Fields = req.Fields[:0]
		return 0, f, err
	}
	req.Fields = p.fields
	if p.next > l.Head {
		return 0, f, lawHead.on(request)
	}
	if err = host(req, &p, l.Proxy); err != nil {
		return 0, f, err
	}
	if f, err = requestFraming(req, &p, l.Proxy); err != nil {
		return 0, f, err
	}
	return p.next, f, nil
}

// partialRequest refuses what cannot become a request.
func partialRequest(buf []byte, req *message.Request, l *Limits) *Error {
	i := skipEmpty(buf)
	lf := bytes.IndexByte(buf[i:], '\n')
	if lf < 0 {
		if len(buf)-i > l.Line {
			return lawTargetLong.on(request)
		}
		for n, c := range buf[i:] {
			switch {
			case n > 0 && c == ' ':
				return nil
			case n == 0 && c == '\r' && len(buf) == i+1 && i == 0: // half of the empty line
				return nil
			case !message.Token[c]:
				return lawMethod.on(request)
			case n == maxMethod:
				return lawMethodLong.on(request)
			}
		}
		return nil
	}
	next, err := requestLine(buf[:i+lf+1], req, l)
	if err != nil {
		return err
	}
	if len(buf) >= l.Head {
		return lawHead.on(request)
	}
	return partialLines(buf[next:], l.Fields, request)
}

// skipEmpty returns where the start line begins, after at most one empty line.
func skipEmpty(buf []byte) int {
	if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
		return 2
	}
	return 0
}

// requestLine parses the request line of buf, which ends in LF, and returns where the
// next line begins.
func requestLine(buf []byte, req *message.Request, l *Limits) (int, *Error) {
	start := skipEmpty(buf)
	i := start
	for i < len(buf) && message.Token[buf[i]] {
		i++
	}
	switch {
	case i >= len(buf) || i+1 < len(buf) && start > 0 && buf[i] == '\r' && buf[i+1] == '\n' && i == start:
		return 0, lawEmptyLines.on(request)
	case i == start:
		return 0, lawMethod.on(request)
	case i-start > maxMethod:
		return 0, lawMethodLong.on(request)
	case buf[i] == '\r' || buf[i] == '\n':
		return 0, lawRequestLine.on(request)
	case buf[i] != ' ':
		return 0, lawMethod.on(request)
	}
	method := buf[start:i]
	i++
	begin := i
	for i < len(buf) && targetByte[buf[i]] {
		i++
	}
	if i-start > l.Line {
		return 0, lawTargetLong.on(request)
	}
	target := buf[begin:i]
	switch c := buf[i]; {
	case len(target) == 0:
		return 0, lawRequestLine.on(request)
	case c == '#':
		return 0, lawFragment.on(request)
	case c == '\r' || c == '\n':
		return 0, lawRequestLine.on(request) // HTTP/0.9, or no version
	case c != ' ':
		return 0, lawTargetByte.on(request)
	}
	i++
	minor, err := version(buf[i:], request)
	if err != nil {
		return 0, err
	}
	i += len("HTTP/1.1")
	switch {
	case buf[i] == '\n':
		return 0, lawBareLF.on(request)
	case buf[i] != '\r':
		return 0, lawRequestLine.on(request)
	case buf[i+1] != '\n':
		return 0, lawBareCR.on(request)
	}
	req.Method, req.Minor = method, minor
	req.Scheme, req.Authority, req.Path, req.Absolute = nil, nil, nil, false
	return i + 2, parseTarget(target, req).or(request)
}

// or is on for a law that may be nil.
func (r *rule) or(s side) *Error {
	if r == nil {
		return nil
	}
	return r.on(s)
}

// version parses the version that b begins with. A higher minor version than 1 is taken as
// 1, as RFC 9110 §2.5 has it. b ends in LF.
func version(b []byte, s side) (minor uint8, err *Error) {
	if len(b) > 8 && string(b[:7]) == "HTTP/1." {
		switch c := b[7]; {
		case c == '0':
			return 0, nil
		case '1' <= c && c <= '9':
			return 1, nil
		}
	}
	if len(b) > 8 && string(b[:5]) == "HTTP/" && digit(b[5]) && b[6] == '.' && digit(b[7]) {
		return 0, lawMajor.on(s)
	}
	return 0, lawVersion.on(s)
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

var (
	slash    = []byte("/")
	asterisk = []byte("*")
	http     = []byte("http")
	https    = []byte("https")
)

// parseTarget tells the four forms of a request target apart (RFC 9112 §3.2).
func parseTarget(target []byte, req *message.Request) *rule {
	if string(req.Method) == "CONNECT" {
		if port, bad := authority(target); bad != nil || port == 0 {
			return lawConnectForm
		}
		req.Authority = target
		return nil
	}
	switch {
	case target[0] == '/':
		req.Path = target
		return path(target)
	case len(target) == 1 && target[0] == '*':
		if string(req.Method) != "OPTIONS" {
			return lawAsterisk
		}
		req.Path = target
		return nil
	}
	var rest []byte
	switch {
	case len(target) > 7 && message.EqualFold(target[:7], "http://"):
		req.Scheme, rest = http, target[7:]
	case len(target) > 8 && message.EqualFold(target[:8], "https://"):
		req.Scheme, rest = https, target[8:]
	default:
		return lawScheme
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if bytes.IndexByte(rest[:end], '@') >= 0 {
		return lawUserinfo
	}
	if _, bad := authority(rest[:end]); bad != nil {
		return bad
	}
	req.Absolute, req.Authority = true, rest[:end]
	switch rest = rest[end:]; {
	case len(rest) == 0 && string(req.Method) == "OPTIONS":
		req.Path = asterisk // RFC 9112 §3.2.4
	case len(rest) == 0:
		req.Path = slash
	case rest[0] == '?':
		req.Path = append(slash[:1:1], rest...)
	default:
		req.Path = rest
		return path(rest)
	}
	return nil
}

// path checks the path before the query.
func path(p []byte) *rule {
	switch i := message.Path(p); {
	case i < 0:
		return nil
	case p[i] == '%':
		return lawEscape
	}
	return lawTargetByte
}

// authority checks host or host:port. port is 0 if there is none.
func authority(b []byte) (port int, bad *rule) {
	port, ok := message.Authority(b)
	if !ok {
		return 0, lawAuthority
	}
	return port, nil
}

// host checks the Host field against the version and the target, and says what the
// request's authority is.
func host(req *message.Request, p *parsed, proxy bool) *Error {
	if !p.seen.Has(message.Host) {
		if req.Minor > 0 {
			return lawHostMissing.on(request)
		}
		return nil
	}
	if p.twice.Has(message.Host) {
		return lawHostTwice.on(request)
	}
	v, _ := message.Get(req.Fields, message.Host)
	if _, bad := authority(v); bad != nil {
		return lawHost.on(request)
	}
	switch {
	case req.Authority == nil:
		req.Authority = v
	case !proxy && !bytes.EqualFold(req.Authority, v):
		return lawHostDiffers.on(request)
	}
	return nil
}

// requestFraming reads the fields that say how the request ends and what of it is forwarded.
func requestFraming(req *message.Request, p *parsed, proxy bool) (f Framing, err *Error) {
	f.side = request
	f.KeepAlive = req.Minor > 0
	switch string(req.Method) {
	case "HEAD":
		f.Asked = AskedHead
	case "CONNECT":
		f.Asked = AskedConnect
	}
	if req.Minor == 0 {
		f.Asked |= AskedOld
	}
	var c connection
	if p.seen.Has(message.Connection) {
		if c, err = parseConnection(req.Fields, request); err != nil {
			return f, err
		}
		f.KeepAlive = !c.close && (req.Minor > 0 || c.keepAlive)
	}
	if p.seen.Has(message.TransferEncoding) {
		if err = coding(p, req.Minor, request); err != nil {
			return f, err
		}
		f.Kind = Chunked
	} else if p.seen.Has(message.ContentLength) {
		if f.Length, err = length(p, request); err != nil {
			return f, err
		}
		if f.Length > 0 {
			f.Kind = Length
		}
	}
	if f.Kind != None {
		switch string(req.Method) {
		case "CONNECT":
			return f, lawConnectBody.on(request)
		case "TRACE":
			return f, lawTraceBody.on(request)
		}
	}
	if p.seen.Has(message.Upgrade) && c.upgrade && req.Minor > 0 {
		forwardUpgrade(req.Fields, &f)
	}
	if p.seen.Has(message.TE) {
		forwardTrailers(req.Fields, &f)
	}
	if p.seen.Has(message.Expect) {
		if err = expect(req, p, &f); err != nil {
			return f, err
		}
	}
	if proxy && p.seen.Has(message.ProxyAuthorization) {
		hop(req.Fields, message.ProxyAuthorization, true)
	}
	return f, nil
}

// hop sets Hop of every field of that name.
func hop(fields []message.Field, id message.Name, is bool) {
	for i := range fields {
		if fields[i].ID == id {
			fields[i].Hop = is
		}
	}
}

// forwardUpgrade lets an upgrade through, unless one of the protocols is h2c:
// requests of a cleartext HTTP/2 connection would pass us unseen, and with
// them every policy. Without Upgrade the server answers in HTTP/1.1.
func forwardUpgrade(fields []message.Field, f *Framing) {
	any := false
	for i := range fields {
		if fields[i].ID != message.Upgrade {
			continue
		}
		var elem []byte
		for list, more := fields[i].Value, true; more; {
			elem, list, more = element(list)
			if len(elem) >= 3 && message.EqualFold(elem[:3], "h2c") {
				return
			}
			any = any || len(elem) > 0
		}
	}
	if any {
		hop(fields, message.Upgrade, false)
		f.Upgrade = true
		f.options |= optUpgrade
		f.Asked |= AskedUpgrade
	}
}

// forwardTrailers keeps of TE the word "trailers", which is the client's
// promise for itself and for whom it relays (RFC 9110 §10.1.4). Codings are
// between it and us.
func forwardTrailers(fields []message.Field, f *Framing) {
	for i := range fields {
		if fields[i].ID != message.TE {
			continue
		}
		var elem []byte
		for list, more := fields[i].Value, true; more; {
			elem, list, more = element(list)
			if message.EqualFold(elem, "trailers") {
				f.options |= optTrailers
			}
		}
	}
}

func expect(req *message.Request, p *parsed, f *Framing) *Error {
	for i := range req.Fields {
		if req.Fields[i].ID == message.Expect && !message.EqualFold(req.Fields[i].Value, "100-continue") {
			return lawExpect.on(request)
		}
	}
	if req.Minor == 0 { // RFC 9110 §10.1.1: ignored
		hop(req.Fields, message.Expect, true)
		return nil
	}
	if f.Kind == None && !p.seen.Has(message.ContentLength) {
		return lawExpectEmpty.on(request)
	}
	f.ExpectContinue = f.Kind != None
	return nil
}
