package ca

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Expiring is a certificate of the authority that is near its end.
type Expiring struct {
	What     string // "root certificate 1f2e… (Seine root CA)"
	NotAfter time.Time
	Left     time.Duration // at the moment that was asked for; negative: it is over
	Days     int           // the last warning that was due: 30, 7, 1, or 0: it is over
	Mend     string
}

// String is a sentence that says what to do.
func (e Expiring) String() string {
	end := e.NotAfter.UTC().Format(time.RFC3339)
	if e.Days == 0 {
		return fmt.Sprintf("%s has ended at %s: %s", e.What, end, e.Mend)
	}
	return fmt.Sprintf("%s ends in %s, at %s: %s", e.What, days(e.Left), end, e.Mend)
}

func days(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	}
	return d.Round(time.Minute).String()
}

// warnings are how many days before an end somebody is told.
var warnings = [...]int{1, 7, 30}

// Expires says what of certs a person must be told at a moment, by name: it is within 30, 7 or 1 days of its end, or over it. Certificates that live
// for less than 60 days are renewed by themselves and are told of in the last third
// of their life alone, when that has failed.
func Expires(now time.Time, mend string, certs map[string]*x509.Certificate) []Expiring {
	var out []Expiring
	for _, what := range slices.Sorted(maps.Keys(certs)) {
		c := certs[what]
		e := Expiring{What: what, NotAfter: c.NotAfter, Left: c.NotAfter.Sub(now), Mend: mend}
		life := c.NotAfter.Sub(c.NotBefore)
		if e.Left > 0 {
			if life < 60*24*time.Hour && e.Left > life/3 {
				continue
			}
			for _, d := range warnings {
				if e.Left <= time.Duration(d)*24*time.Hour {
					e.Days = d
					break
				}
			}
			if e.Days == 0 {
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// Expiring says what of the authority a person must be told at a moment.
func (a *Authority) Expiring(now time.Time, mend string) []Expiring {
	k := a.cur.Load()
	certs := map[string]*x509.Certificate{}
	for i, c := range append([]*x509.Certificate{k.base.cert}, k.base.chain...) {
		if i > 0 && c.Equal(k.base.cert) {
			continue
		}
		certs[fmt.Sprintf("intermediate certificate %s (%s)", c.SerialNumber.Text(16), c.Subject.CommonName)] = c
	}
	for _, c := range k.roots {
		delete(certs, fmt.Sprintf("intermediate certificate %s (%s)", c.SerialNumber.Text(16), c.Subject.CommonName))
		certs[fmt.Sprintf("root certificate %s (%s)", c.SerialNumber.Text(16), c.Subject.CommonName)] = c
	}
	return Expires(now, mend, certs)
}
