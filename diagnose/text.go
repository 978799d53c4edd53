package diagnose

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// WriteText prints diagnoses for people, or that nothing is unusual as far as that
// is known.
func WriteText(w io.Writer, list []Diagnosis, l Learning) error {
	var b strings.Builder
	if len(list) == 0 {
		b.WriteString(l.Quiet() + "\n")
	}
	for i, d := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		what := label(d.Service, d.Version)
		if d.Caller != "" {
			what = d.Caller + " → " + what
		}
		fmt.Fprintf(&b, "%s: %s\n", clean(what), clean(d.Explanation))
		fmt.Fprintf(&b, "  cause     %s: %s\n", d.Cause, clean(d.Culprit))
		fmt.Fprintf(&b, "  latency   P50 %s → %s, P99 %s → %s", millis(d.Before.P50), millis(d.After.P50), millis(d.Before.P99), millis(d.After.P99))
		if d.Shape == Tail {
			fmt.Fprintf(&b, " (%s of the requests wait; the others are as usual)", percent(d.Slower))
		}
		fmt.Fprintf(&b, "\n  since     %s\n", d.Since.Format(time.TimeOnly))
		for j, e := range d.Evidence {
			head := "evidence"
			if j > 0 {
				head = ""
			}
			fmt.Fprintf(&b, "  %-9s %s\n", head, clean(e))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// clean takes out what would steer a terminal: the names are labels of metrics, which
// are each proxy's own words.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// Quiet is the sentence for no diagnosis: that nothing is unusual, or that it is
// not known yet.
func (l Learning) Quiet() string {
	switch {
	case l.Judged == 0 && l.Waiting == 0:
		return "no requests are seen: there is nothing to judge"
	case l.Judged == 0:
		return fmt.Sprintf("still learning what is usual: %d of %d windows of ten seconds", l.Windows, l.Needed)
	case l.Waiting > 0:
		return fmt.Sprintf("nothing is slower than usual; of %d of %d it is still learnt what that is", l.Waiting, l.Waiting+l.Judged)
	}
	return "nothing is slower than usual"
}
