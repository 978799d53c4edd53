package http1

import (
	"bytes"

	"github.com/seinemesh/seine/message"
)

// ParseResponse parses the response head that buf begins with into res, whose
// slices then point into buf; asked is Framing.Asked of the request that it
// answers. n and the errors are as with ParseRequest; every error has status
// 502. After an interim response (Framing.Interim) parse again from buf[n:].
func ParseResponse(buf []byte, res *message.Response, asked Asked, lim *Limits) (n int, f Framing, err *Error) {
	l := lim.get()
	head := whole(buf)
	if head == nil {
		return 0, f, partialResponse(buf, res, &l)
	}
	i, err := statusLine(head, res)
	if err != nil {
		return 0, f, err
	}
	p, err := parseFields(head, i, res.Fields[:0], l.Fields, response)
	if err != nil {
		res.Fields = res.Fields[:0]
		return 0, f, err
	}
	res.Fields = p.fields
	if p.next > l.Head {
		return 0, f, lawHead.on(response)
	}
	if f, err = responseFraming(res, &p, asked); err != nil {
		return 0, f, err
	}
	return p.next, f, nil
}

func partialResponse(buf []byte, res *message.Response, l *Limits) *Error {
	lf := bytes.IndexByte(buf, '\n')
	if lf < 0 {
		const start = "HTTP/"
		if n := min(len(buf), len(start)); string(buf[:n]) != start[:n] {
			return lawStatusLine.on(response)
		}
		if len(buf) > l.Line {
			return lawHead.on(response)
		}
		return nil
	}
	next, err := statusLine(buf[:lf+1], res)
	if err != nil {
		return err
	}
	if len(buf) >= l.Head {
		return lawHead.on(response)
	}
	return partialLines(buf[next:], l.Fields, response)
}

// statusLine parses the status line of buf, which ends in LF, and returns where the next
// line begins.
func statusLine(buf []byte, res *message.Response) (int, *Error) {
	const least = len("HTTP/1.1 200 \r\n")
	if len(buf) < least || string(buf[:5]) != "HTTP/" {
		return 0, lawStatusLine.on(response)
	}
	minor, err := version(buf, response)
	if err != nil {
		return 0, err
	}
	if buf[8] != ' ' || !digit(buf[9]) || !digit(buf[10]) || !digit(buf[11]) || buf[12] != ' ' {
		return 0, lawStatusLine.on(response)
	}
	status := int(buf[9]-'0')*100 + int(buf[10]-'0')*10 + int(buf[11]-'0')
	if status < 100 {
		return 0, lawStatus.on(response)
	}
	i := 13
	for {
		i += message.Text(buf[i:])
		if buf[i] != '\t' {
			break
		}
		i++
	}
	switch {
	case buf[i] == '\n':
		return 0, lawBareLF.on(response)
	case buf[i] != '\r':
		return 0, lawValue.on(response)
	case buf[i+1] != '\n':
		return 0, lawBareCR.on(response)
	}
	res.Status, res.Reason, res.Minor = status, buf[13:i], minor
	return i + 2, nil
}

// responseFraming follows RFC 9112 §6.3 in its order, and refuses what it would have to guess.
func responseFraming(res *message.Response, p *parsed, asked Asked) (f Framing, err *Error) {
	f.side = response
	f.KeepAlive = res.Minor > 0
	var c connection
	if p.seen.Has(message.Connection) {
		if c, err = parseConnection(res.Fields, response); err != nil {
			return f, err
		}
		f.KeepAlive = !c.close && (res.Minor > 0 || c.keepAlive)
	}
	size := int64(-1)
	chunked := p.seen.Has(message.TransferEncoding)
	if chunked {
		if err = coding(p, res.Minor, response); err != nil {
			return f, err
		}
	} else if size, err = length(p, response); err != nil {
		return f, err
	}
	switch {
	case res.Status < 200:
		if chunked {
			return f, lawNoBodyCoding.on(response)
		}
		if size >= 0 {
			return f, lawNoBodyLength.on(response)
		}
		if res.Status != 101 {
			f.Interim = true
			return f, nil
		}
		return switched(res, p, c, asked, f)
	case res.Status == 204:
		if chunked {
			return f, lawNoBodyCoding.on(response)
		}
		if size > 0 {
			return f, lawNoBodyLength.on(response)
		}
		// Content-Length: 0 is as forbidden, but common, and every reader
		// agrees on where the response ends. It is not forwarded.
		f.options |= optNoLength
	case asked&AskedConnect != 0 && res.Status < 300:
		// RFC 9110 §9.3.6: a client ignores both fields.
		f.options |= optNoLength
		f.Kind, f.KeepAlive = Tunnel, false
	case asked&AskedHead != 0 || res.Status == 304:
	case chunked:
		f.Kind = Chunked
	case size > 0:
		f.Kind, f.Length = Length, size
	case size < 0:
		f.Kind, f.KeepAlive = Close, false
	}
	if res.Status == 426 && p.seen.Has(message.Upgrade) {
		hop(res.Fields, message.Upgrade, false) // RFC 9110 §15.5.22: says which protocol is required
		f.options |= optUpgrade
	}
	return f, nil
}

// switched is the framing of 101 (Switching Protocols).
func switched(res *message.Response, p *parsed, c connection, asked Asked, f Framing) (Framing, *Error) {
	if asked&AskedUpgrade == 0 {
		return f, lawSwitch.on(response)
	}
	if !p.seen.Has(message.Upgrade) || !c.upgrade || res.Minor == 0 {
		return f, lawSwitchEmpty.on(response)
	}
	forwardUpgrade(res.Fields, &f)
	if !f.Upgrade { // to h2c, which we never forward
		return f, lawSwitch.on(response)
	}
	f.Kind, f.KeepAlive, f.Asked = Tunnel, false, 0
	return f, nil
}
