package explain

import (
	"fmt"

	"github.com/seinemesh/seine/decide"
)

// retries tells the policy that holds for the route.
func (e *explanation) retries(r *decide.Retry) {
	if r == nil {
		e.say("It is sent once: the rule turns retries off (attempts 0).")
		return
	}
	out := &Retries{
		Attempts: r.Attempts, RetryOn: r.Conditions(), Backoff: r.Backoff.String(), PreviousHosts: r.AnyHost,
		RemoteLocalities: r.Remote, NonIdempotentToo: r.Written, FromConfiguration: r.Configured,
	}
	if r.PerTry > 0 {
		out.PerTryTimeout, out.Hedge = r.PerTry.String(), r.Hedge
	}
	e.a.Retries = out
	if r.Configured {
		e.say("If it fails it is sent again: %s.", out)
	}
}

// String is the policy in a line.
func (r *Retries) String() string {
	s := fmt.Sprintf("up to %d on %s, after pauses that grow from %s", r.Attempts, r.RetryOn, r.Backoff)
	if r.PerTryTimeout != "" {
		s += ", " + r.PerTryTimeout + " for each try"
		if r.Hedge {
			s += ", which then goes on beside the next (hedging)"
		}
	}
	if !r.NonIdempotentToo {
		s += ", only what is safe to repeat"
	}
	if !r.FromConfiguration {
		s += " (the default)"
	}
	return s
}
