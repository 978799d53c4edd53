package decide

import (
	"strconv"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// Cors is a compiled http.corsPolicy. It is Envoy's CORS filter to the letter,
// whose source (extensions/filters/http/cors) says what the documentation
// does not: a preflight is an OPTIONS request with Origin and
// Access-Control-Request-Method, whichever method that names.
type Cors struct {
	Proto *seinev1.Cors

	origins                          []value
	methods, headers, expose, maxAge []byte // as they are written; empty: not at all
}

func field(name, value []byte) message.Field { return message.Field{Name: name, Value: value} }

var (
	star = []byte("*")
	yes  = []byte("true")

	allowOrigin      = []byte("access-control-allow-origin")
	allowCredentials = []byte("access-control-allow-credentials")
	allowMethods     = []byte("access-control-allow-methods")
	allowHeaders     = []byte("access-control-allow-headers")
	exposeHeaders    = []byte("access-control-expose-headers")
	maxAge           = []byte("access-control-max-age")
)

// Sharing is what a Cors makes of a request.
type Sharing uint8

const (
	NotShared       Sharing = iota // no other origin asks, or one that is not allowed: nothing is added
	Shared                         // the answer gets AppendShared's fields
	Preflight                      // answered here, with AppendPreflight's fields
	PreflightDenied                // answered here, with the same fields but the origin
)

// Decide says what to do for a request, and the origin that asks.
func (c *Cors) Decide(req *message.Request) (Sharing, []byte) {
	origin, ok := message.Lookup(req.Fields, "origin")
	if !ok || len(origin) == 0 {
		return NotShared, nil
	}
	allowed := c.allows(origin)
	if string(req.Method) == "OPTIONS" {
		if method, ok := message.Lookup(req.Fields, "access-control-request-method"); ok && len(method) > 0 {
			switch {
			case allowed:
				return Preflight, origin
			case c.Proto.AnswerUnmatched:
				return PreflightDenied, origin
			}
			return NotShared, nil
		}
	}
	if allowed {
		return Shared, origin
	}
	return NotShared, nil
}

// allows: a matcher that takes "*" takes every origin (Envoy's isOriginAllowed).
func (c *Cors) allows(origin []byte) bool {
	for i := range c.origins {
		if c.origins[i].match(star) || c.origins[i].match(origin) {
			return true
		}
	}
	return false
}

// AppendPreflight appends the fields of the answer to the preflight in req,
// whose verdict was s. Values point into req or the policy.
func (c *Cors) AppendPreflight(dst []message.Field, s Sharing, req *message.Request, origin []byte) []message.Field {
	if s == Preflight {
		dst = append(dst, field(allowOrigin, origin))
	}
	if c.Proto.Credentials {
		dst = append(dst, field(allowCredentials, yes))
	}
	dst = appendAsked(dst, allowMethods, c.methods, req, "access-control-request-method")
	dst = appendAsked(dst, allowHeaders, c.headers, req, "access-control-request-headers")
	if s == Preflight && len(c.expose) > 0 {
		dst = append(dst, field(exposeHeaders, c.expose))
	}
	if len(c.maxAge) > 0 {
		dst = append(dst, field(maxAge, c.maxAge))
	}
	return dst
}

// appendAsked appends a list; "*" becomes what the preflight asks for.
func appendAsked(dst []message.Field, name, list []byte, req *message.Request, asked string) []message.Field {
	switch string(list) {
	case "":
		return dst
	case "*":
		if list, _ = message.Lookup(req.Fields, asked); len(list) == 0 {
			return dst
		}
	}
	return append(dst, field(name, list))
}

// Overrides reports whether an upstream's field of that name gives way to
// AppendShared's.
func (c *Cors) Overrides(name []byte) bool {
	const prefix = "access-control-"
	if len(name) <= len(prefix) || !message.EqualFold(name[:len(prefix)], prefix) {
		return false
	}
	switch rest := name[len(prefix):]; {
	case message.EqualFold(rest, "allow-origin"):
		return true
	case message.EqualFold(rest, "allow-credentials"):
		return c.Proto.Credentials
	case message.EqualFold(rest, "expose-headers"):
		return c.Proto.Expose != ""
	}
	return false
}

// AppendShared appends the fields of an answer to an allowed origin.
func (c *Cors) AppendShared(dst []message.Field, origin []byte) []message.Field {
	dst = append(dst, field(allowOrigin, origin))
	if c.Proto.Credentials {
		dst = append(dst, field(allowCredentials, yes))
	}
	if len(c.expose) > 0 {
		dst = append(dst, field(exposeHeaders, c.expose))
	}
	return dst
}

func compileCors(p *seinev1.Cors) (*Cors, error) {
	if p == nil {
		return nil, nil
	}
	c := &Cors{Proto: p, methods: []byte(p.Methods), headers: []byte(p.Headers), expose: []byte(p.Expose)}
	for _, m := range p.Origins {
		v, err := compileValue(m)
		if err != nil {
			return nil, invalid("corsPolicy: %v", err)
		}
		if m.GetMatch() == nil {
			return nil, invalid("corsPolicy: an origin matches nothing that is written")
		}
		c.origins = append(c.origins, v)
	}
	for _, s := range []string{p.Methods, p.Headers, p.Expose} {
		if !fieldText(s) {
			return nil, invalid("corsPolicy: %q cannot stand in a header", s)
		}
	}
	if d := p.MaxAge; d != nil {
		if d.CheckValid() != nil || d.AsDuration() < 0 {
			return nil, invalid("corsPolicy: maxAge %v", d)
		}
		c.maxAge = strconv.AppendInt(nil, int64(d.AsDuration()/time.Second), 10)
	}
	return c, nil
}
