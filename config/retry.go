package config

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

// mostAttempts is where a number of attempts looks like a mistake.
const mostAttempts = 10

// retry turns http.retries into the model's policy. Validation is Istio's
// (validateHTTPRetry): what that refuses is refused here.
func (c *routeConverter) retry(r *networking.HTTPRetry, timeout *durationpb.Duration, path string) *seinev1.Retry {
	out := &seinev1.Retry{
		PerTryTimeout:    c.atLeastMillisecond(r.PerTryTimeout, path+".perTryTimeout"),
		Backoff:          c.atLeastMillisecond(r.Backoff, path+".backoff"),
		AnyHost:          r.RetryIgnorePreviousHosts != nil && !r.RetryIgnorePreviousHosts.Value,
		OtherHost:        r.RetryIgnorePreviousHosts.GetValue(),
		RemoteLocalities: r.RetryRemoteLocalities.GetValue(),
	}
	switch {
	case r.Attempts < 0:
		c.d.fail(codeInvalid, path+".attempts", nil, "must not be negative (it is %d)", r.Attempts)
	case r.Attempts == 0:
		for _, f := range []struct {
			set  bool
			name string
		}{
			{r.PerTryTimeout != nil, "perTryTimeout"}, {r.RetryOn != "", "retryOn"},
			{r.RetryRemoteLocalities != nil, "retryRemoteLocalities"}, {r.Backoff != nil, "backoff"},
		} {
			if f.set {
				c.d.fail(codeInvalid, path+"."+f.name, nil, "has no meaning where attempts is 0 or missing, which turns retries off: write attempts, or leave this out")
			}
		}
	case r.Attempts > mostAttempts:
		c.b.note(c.o, codeRetries, Warning, path+".attempts", "%d attempts are many: a service that fails is called up to %d times for each request, as far as the retry budget (20 %% of the requests and 10 a second) allows", r.Attempts, r.Attempts+1)
	}
	if all, one := timeout.AsDuration(), r.PerTryTimeout.AsDuration(); all > 0 && one >= all {
		c.b.note(c.o, codeRetries, Info, path+".perTryTimeout", "%v is not shorter than the timeout of the whole request, %v, and has no effect", one, all)
	}
	out.Attempts = uint32(max(r.Attempts, 0))
	out.Hedge = c.hedges(r, path)
	for _, s := range strings.Split(r.RetryOn, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		if _, _, ok := decide.ParseRetryOn(s); !ok {
			c.d.fail(codeInvalid, path+".retryOn", nil, "%q is neither a condition nor a status code: write some of %s, or codes such as 503, with commas between them", clip(s), strings.Join(decide.RetryConditions(), ", "))
			continue
		}
		switch s {
		case "retriable-headers":
			c.b.note(c.o, codeRetries, Warning, path+".retryOn", "retriable-headers has no effect: a VirtualService cannot say which headers")
		case "http3-post-connect-failure":
			c.b.note(c.o, codeRetries, Info, path+".retryOn", "http3-post-connect-failure has no effect: HTTP/3 is not spoken between workloads")
		}
		out.On = append(out.On, s)
	}
	return out
}

// AnnotationHedge on a VirtualService has its routes with a perTryTimeout hedge: a try
// whose time has passed is not given up when the next one is made, and the first good
// answer wins. Istio has no field for it; the name and the meaning are those of Envoy's
// field x-envoy-hedge-on-per-try-timeout.
const AnnotationHedge = trafficGroup + "/hedge-on-per-try-timeout"

func (c *routeConverter) hedges(r *networking.HTTPRetry, path string) bool {
	switch v, ok := c.o.annotations[AnnotationHedge]; {
	case !ok || v == "false":
	case v != "true":
		c.d.fail(codeInvalid, "metadata.annotations."+AnnotationHedge, nil, "%q: write true or false", clip(v))
	case r.Attempts > 0 && r.PerTryTimeout == nil:
		c.b.note(c.o, codeRetries, Info, path, "%s has no effect here: there is no perTryTimeout after which another try could be made", AnnotationHedge)
	default:
		return r.Attempts > 0
	}
	return false
}

// atLeastMillisecond checks a duration as Istio does.
func (c *routeConverter) atLeastMillisecond(d *durationpb.Duration, path string) *durationpb.Duration {
	if d == nil {
		return nil
	}
	if v := d.AsDuration(); d.CheckValid() != nil || v < time.Millisecond || v%time.Millisecond != 0 {
		c.d.fail(codeDuration, path, nil, "must be at least 1ms, in whole milliseconds (it is %v)", v)
		return nil
	}
	return d
}
