package config

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// million is the whole of a share that is drawn in millionths.
const million = 1_000_000

// perMillion is a percentage in millionths, as Istio gives it to Envoy
// (translatePercentToFractionalPercent); a missing one is absent.
func (c *routeConverter) perMillion(p *networking.Percent, absent uint32, path string) uint32 {
	if p == nil {
		return absent
	}
	if math.IsNaN(p.Value) || p.Value < 0 || p.Value > 100 {
		c.d.fail(codeInvalid, path, nil, "a percentage must be between 0 and 100 (it is %v)", p.Value)
		return 0
	}
	return uint32(p.Value * 10_000)
}

// fault turns http.fault into the model's. Validation is Istio's
// (validateHTTPFaultInjection).
func (c *routeConverter) fault(f *networking.HTTPFaultInjection, path string) *seinev1.Fault {
	out := &seinev1.Fault{}
	if f.Abort == nil && f.Delay == nil {
		c.d.fail(codeInvalid, path, nil, "a fault must have a delay, an abort, or both")
	}
	if d := f.Delay; d != nil {
		at := path + ".delay"
		//lint:ignore SA1019 it is what 2019's resources use
		percent := d.Percent
		if percent < 0 || percent > 100 {
			c.d.fail(codeInvalid, at+".percent", nil, "a percentage must be between 0 and 100 (it is %d)", percent)
			percent = 0
		}
		out.Delay = &seinev1.Fault_Delay{PerMillion: c.perMillion(d.Percentage, uint32(percent)*million/100, at+".percentage")}
		switch {
		case d.GetExponentialDelay() != nil:
			c.d.fail(codeInvalid, at+".exponentialDelay", nil, "there are only fixed delays, as in Istio: write fixedDelay")
		case d.GetFixedDelay() == nil:
			c.d.fail(codeInvalid, at, nil, "must say how long: write fixedDelay")
		default:
			out.Delay.Fixed = c.atLeastMillisecond(d.GetFixedDelay(), at+".fixedDelay")
		}
		if out.Delay.PerMillion == 0 {
			c.b.note(c.o, codeNoEffect, Warning, at, "delays no request: it has no percentage, or 0")
		}
	}
	if a := f.Abort; a != nil {
		at := path + ".abort"
		out.Abort = &seinev1.Fault_Abort{PerMillion: c.perMillion(a.Percentage, 0, at+".percentage")}
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			if e.HttpStatus < 200 || e.HttpStatus > 599 {
				c.d.fail(codeInvalid, at+".httpStatus", nil, "must be between 200 and 599 (it is %d)", e.HttpStatus)
			}
			out.Abort.HttpStatus = uint32(e.HttpStatus)
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			code, ok := decide.GRPCCode(e.GrpcStatus)
			if !ok {
				c.d.fail(codeInvalid, at+".grpcStatus", nil, "%q is no status of gRPC: write its name, such as UNAVAILABLE", clip(e.GrpcStatus))
			}
			out.Abort.GrpcStatus = uint32(code)
		case *networking.HTTPFaultInjection_Abort_Http2Error:
			c.d.fail(codeInvalid, at+".http2Error", nil, "there is no such abort, as in Istio: write httpStatus or grpcStatus")
		default:
			c.d.fail(codeInvalid, at, nil, "must say with what: write httpStatus or grpcStatus")
		}
		if out.Abort.PerMillion == 0 {
			c.b.note(c.o, codeNoEffect, Warning, at, "aborts no request: it has no percentage, or 0")
		}
	}
	return out
}

var corsMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodConnect, http.MethodOptions, http.MethodTrace, "*",
}

// cors turns http.corsPolicy into the model's (Istio's TranslateCORSPolicy).
func (c *routeConverter) cors(p *networking.CorsPolicy, path string) *seinev1.Cors {
	out := &seinev1.Cors{
		Methods: strings.Join(p.AllowMethods, ","), Headers: strings.Join(p.AllowHeaders, ","), Expose: strings.Join(p.ExposeHeaders, ","),
		MaxAge: p.MaxAge, Credentials: p.AllowCredentials.GetValue(),
		AnswerUnmatched: p.UnmatchedPreflights == networking.CorsPolicy_IGNORE,
	}
	for i, m := range p.AllowOrigins {
		if s := c.stringMatch(m, item(path+".allowOrigins", i), false); s != nil {
			out.Origins = append(out.Origins, s)
		} else if m.GetMatchType() == nil {
			c.d.fail(codeInvalid, item(path+".allowOrigins", i), nil, "must say exact, prefix or regex")
		}
	}
	//lint:ignore SA1019 it is what 2019's resources use
	old := p.AllowOrigin
	if len(p.AllowOrigins) == 0 { // Istio: the old list holds only where the new one is missing
		for _, o := range old {
			out.Origins = append(out.Origins, &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: o}})
		}
	}
	if len(out.Origins) == 0 {
		c.b.note(c.o, codeNoEffect, Warning, path, "allows no origin: write allowOrigins")
	}
	for i, m := range p.AllowMethods {
		if !slices.Contains(corsMethods, m) {
			c.d.fail(codeInvalid, item(path+".allowMethods", i), nil, "%q is no method: write one of %s", clip(m), strings.Join(corsMethods, ", "))
		}
	}
	for _, list := range []struct {
		names []string
		at    string
	}{{p.AllowHeaders, ".allowHeaders"}, {p.ExposeHeaders, ".exposeHeaders"}} {
		for i, name := range list.names {
			c.headerName(name, item(path+list.at, i))
		}
	}
	if d := p.MaxAge; d != nil && (d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration()%time.Second != 0) {
		c.d.fail(codeDuration, path+".maxAge", nil, "must be a number of whole seconds (it is %v)", d.AsDuration())
	}
	return out
}

// mirrors turns http.mirror with its percentage, or http.mirrors, into the
// model's.
func (c *routeConverter) mirrors(r *networking.HTTPRoute, path string) []*seinev1.Mirror {
	//lint:ignore SA1019 it is what older resources use
	old := r.MirrorPercent
	switch {
	case r.Mirror != nil && len(r.Mirrors) > 0:
		c.d.fail(codeInvalid, path, nil, "mirror and mirrors exclude each other: keep one of them")
	case r.Mirror != nil:
		if old != nil && old.Value > 100 {
			c.d.fail(codeInvalid, path+".mirrorPercent", nil, "a percentage must be between 0 and 100 (it is %d)", old.Value)
		}
		share := uint32(million)
		if old != nil {
			share = min(old.Value, 100) * million / 100
		}
		return []*seinev1.Mirror{{
			Destination: c.destination(r.Mirror, path+".mirror"),
			PerMillion:  c.perMillion(r.MirrorPercentage, share, path+".mirrorPercentage"),
		}}
	case len(r.Mirrors) == 0 && (old != nil || r.MirrorPercentage != nil):
		c.b.note(c.o, codeNoEffect, Warning, path, "a share is written for a mirror that is not there: write mirror")
	}
	var out []*seinev1.Mirror
	for i, m := range r.Mirrors {
		at := item(path+".mirrors", i)
		out = append(out, &seinev1.Mirror{
			Destination: c.destination(m.Destination, at+".destination"),
			PerMillion:  c.perMillion(m.Percentage, million, at+".percentage"),
		})
	}
	if len(out) > maxMirrors {
		c.d.fail(codeLimit, path+".mirrors", nil, "%d mirrors are more than the %d allowed", len(out), maxMirrors)
	}
	return out
}

// maxMirrors bounds what one request may become.
const maxMirrors = 8
