package rotation

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Status is how a control plane's authority stands, as its API says it.
type Status struct {
	TrustDomain string   `json:"trustDomain"`
	Source      string   `json:"source"`
	Bundle      string   `json:"bundle"` // the trust bundle's name
	Roots       []Root   `json:"roots"`
	Rotation    State    `json:"rotation"`
	Waiting     string   `json:"waiting,omitempty"` // what the rotation waits for
	Replicas    []Report `json:"replicas"`
	Expected    int      `json:"expected"` // proxies that there ought to be
	Findings    []string `json:"findings,omitempty"`
}

// Root is one root of the trust bundle.
type Root struct {
	ID       string    `json:"id"`
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"notAfter"`
	Signs    bool      `json:"signs"`
}

// WriteText writes s for people.
func (s *Status) WriteText(w io.Writer, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(t, "trust domain\t%s\nkept in\t%s\n", s.TrustDomain, s.Source)
	for _, r := range s.Roots {
		role := "trusted"
		if r.Signs {
			role = "signs"
		}
		fmt.Fprintf(t, "root %s\t%s, until %s (%d days)\n", r.ID, role, r.NotAfter.UTC().Format(time.DateOnly), int(r.NotAfter.Sub(now)/(24*time.Hour)))
	}
	connected, unacked, unled := 0, 0, 0
	for _, r := range s.Replicas {
		connected, unacked, unled = connected+r.Connected, unacked+r.Unacked, unled+r.Unled
	}
	fmt.Fprintf(t, "proxies\t%d of %d connected; %d without this trust bundle, %d without a certificate of the root that signs\n", connected, s.Expected, unacked, unled)
	switch {
	case s.Rotation.Step != Stable:
		fmt.Fprintf(t, "rotation\tstep %s since %s, from root %s to %s\n", s.Rotation.Step, s.Rotation.Since.UTC().Format(time.RFC3339), s.Rotation.Old, s.Rotation.New)
		if s.Waiting != "" {
			fmt.Fprintf(t, "waits for\t%s\n", s.Waiting)
		}
	case s.Rotation.Ended.IsZero():
		fmt.Fprintln(t, "rotation\tnone")
	default:
		fmt.Fprintf(t, "rotation\tnone; the last one ended %s\n", s.Rotation.Ended.UTC().Format(time.RFC3339))
	}
	for _, f := range s.Findings {
		fmt.Fprintf(t, "warning\t%s\n", f)
	}
	return t.Flush()
}
