package explain

import (
	"fmt"
	"strings"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/plan"
)

// Fault is an injected delay or abort, each for a share of the requests.
type Fault struct {
	Delay        string  `json:"delay,omitempty"`
	DelayPercent float64 `json:"delayPercent,omitempty"`
	Abort        int     `json:"abort,omitempty"`     // HTTP status
	GRPCAbort    string  `json:"grpcAbort,omitempty"` // or the name of a grpc-status
	AbortPercent float64 `json:"abortPercent,omitempty"`
}

// Cors says what a corsPolicy makes of the request.
type Cors struct {
	Origin  string            `json:"origin,omitempty"`
	Allowed bool              `json:"allowed"`
	Headers map[string]string `json:"headers,omitempty"` // that the answer gets
}

// Mirror gets copies of a share of the requests.
type Mirror struct {
	Host    string  `json:"host"`
	Subset  string  `json:"subset,omitempty"`
	Port    uint32  `json:"port"`
	Percent float64 `json:"percent"`
}

func percentOf(perMillion uint32) float64 { return float64(perMillion) / 10_000 }

// fault tells what is injected; true: every request ends here.
func (e *explanation) fault(r *decide.Rule) bool {
	if r.Fault == nil {
		return false
	}
	f, p := &Fault{}, r.Fault.Proto
	if d := p.Delay; d.GetPerMillion() > 0 {
		f.Delay, f.DelayPercent = d.Fixed.AsDuration().String(), percentOf(d.PerMillion)
		e.say("%g %% of the requests are held back for %s (fault.delay, flag DI).", f.DelayPercent, f.Delay)
	}
	a := p.Abort
	if a.GetPerMillion() > 0 {
		f.AbortPercent = percentOf(a.PerMillion)
		what := fmt.Sprint(a.HttpStatus)
		if f.Abort = int(a.HttpStatus); a.HttpStatus == 0 {
			f.GRPCAbort = decide.GRPCCodeName(int(a.GrpcStatus))
			what = "grpc-status " + f.GRPCAbort
		}
		e.say("%g %% of the requests are answered with %s and go nowhere (fault.abort, flag FI).", f.AbortPercent, what)
	}
	e.a.Fault = f
	if f.AbortPercent < 100 {
		return false
	}
	status := int(a.HttpStatus)
	if status == 0 {
		status = 200
	}
	e.reject(Injected, status, "FI")
	return true
}

// cors tells what the rule's corsPolicy does; true: the request is answered
// here.
func (e *explanation) cors(r *decide.Rule, head *message.Request) bool {
	if r.Cors == nil {
		return false
	}
	verdict, origin := r.Cors.Decide(head)
	c := &Cors{Origin: string(origin), Allowed: verdict == decide.Shared || verdict == decide.Preflight}
	if given, ok := message.Lookup(head.Fields, "origin"); ok {
		c.Origin = string(given)
	}
	e.a.Cors = c
	var fields []message.Field
	switch verdict {
	case decide.NotShared:
		if c.Origin != "" {
			e.say("The origin %s is none that corsPolicy allows: the answer gets no fields of it.", c.Origin)
		} else {
			e.say("corsPolicy is not about it: it has no Origin.")
		}
		return false
	case decide.Shared:
		e.say("corsPolicy allows the origin %s: the answer says so.", c.Origin)
		fields = r.Cors.AppendShared(nil, origin)
	default:
		e.a.Outcome, e.a.Status = Respond, 200
		if verdict == decide.Preflight {
			e.say("It is a preflight of an origin that corsPolicy allows: answered here with 200.")
		} else {
			e.say("It is a preflight of an origin that corsPolicy does not allow, and unmatchedPreflights is IGNORE: answered here with 200, without the origin.")
		}
		fields = r.Cors.AppendPreflight(nil, verdict, head, origin)
	}
	c.Headers = map[string]string{}
	for _, f := range fields {
		c.Headers[strings.ToLower(string(f.Name))] = string(f.Value)
	}
	return verdict != decide.Shared
}

// mirrors tells who gets copies.
func (e *explanation) mirrors(r *decide.Rule) {
	for _, m := range r.Mirrors {
		d := &m.Destination
		out := Mirror{Host: d.Host, Subset: d.Subset, Port: d.Port, Percent: percentOf(m.PerMillion)}
		e.a.Mirrors = append(e.a.Mirrors, out)
		e.say("%s gets a copy of %g %% of the requests; its answers are thrown away.", destinationName(d), out.Percent)
		switch p := plan.Service(e.s, e.from, d.Key); {
		case p == nil:
			e.say("There is no service %s with port %d that namespace %s sees: its copies go nowhere.", d.Host, d.Port, e.from.Namespace)
		case p.Protocol == seinev1.Protocol_PROTOCOL_HTTP2 || p.Protocol == seinev1.Protocol_PROTOCOL_GRPC:
			e.unsupported("mirror", "%s is %s, and copies are HTTP/1.1 in this version: it gets none.", destinationName(d), protocolName(p.Protocol))
		}
	}
}

// RateLimit is one that the receiving sidecar holds the request to.
type RateLimit struct {
	Limit    string `json:"limit"` // NAMESPACE/NAME[INDEX]
	Requests uint64 `json:"requests"`
	Per      string `json:"per"`
	Burst    uint64 `json:"burst"`
	Key      string `json:"key,omitempty"` // what has a bucket for each of its values
}

// rateLimits tells the limits that are about the request; all of the port's if
// no request is asked about.
func (e *explanation) rateLimits(self *decide.Self, port uint16) {
	head := e.head()
	for _, l := range self.RateLimits(port) {
		p := l.Proto
		if e.q.URL != "" && !l.Matches(head, uint32(port)) {
			e.say("Rate limit %s is not about it.", p.Id)
			continue
		}
		out := RateLimit{Limit: p.Id, Requests: p.Requests, Per: p.Per.AsDuration().String(), Burst: l.Burst}
		each := "all callers together"
		switch {
		case p.GetHeader() != "":
			out.Key, each = "header "+p.GetHeader(), "each value of the header "+p.GetHeader()
		case p.GetClient():
			out.Key, each = "client", "each caller by its verified identity"
		}
		e.a.RateLimits = append(e.a.RateLimits, out)
		e.say("%s lets %d requests in each %s, up to %d at once, for %s; more get 429 with flag RL.", decide.Source(p.Source), p.Requests, out.Per, l.Burst, each)
	}
}
