package controlplane

import (
	"cmp"
	"context"
	"crypto/x509"
	"slices"
	"time"

	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/view"
)

// maxLeaves is how many proxies' certificates are listed.
const maxLeaves = 2000

type leaf struct {
	Proxy     string    `json:"proxy"`
	Identity  string    `json:"identity"`
	NotBefore time.Time `json:"not_before,omitzero"` // unknown of one that was renewed since the stream was opened
	NotAfter  time.Time `json:"not_after"`
	Serial    string    `json:"serial,omitempty"`
	Root      string    `json:"root"`
}

type issuer struct {
	ID        string    `json:"id,omitempty"`
	Subject   string    `json:"subject"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Signs     bool      `json:"signs"`
	Algorithm string    `json:"algorithm"`
}

func issuerOf(c *x509.Certificate) issuer {
	return issuer{Subject: c.Subject.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Algorithm: c.SignatureAlgorithm.String()}
}

// certificates lists the mesh's, from the roots to the leaves. Of a proxy of
// another replica it is not known here.
func (s *server) certificates(ctx context.Context, m *view.Moment) any {
	type rotating struct {
		Step    string     `json:"step"`
		Old     string     `json:"old,omitempty"`
		New     string     `json:"new,omitempty"`
		Since   *time.Time `json:"since,omitempty"`
		Waiting string     `json:"waiting,omitempty"`
	}
	out := struct {
		At            time.Time `json:"at"`
		TrustDomain   string    `json:"trust_domain"`
		Source        string    `json:"source"`
		Roots         []issuer  `json:"roots"`
		Intermediates []issuer  `json:"intermediates"`
		Control       struct {
			NotAfter time.Time `json:"not_after"`
		} `json:"control"`
		Rotation rotating `json:"rotation"`
		Findings []string `json:"findings"`
		Leaves   []leaf   `json:"leaves"`
		LeftOut  int      `json:"left_out"`
	}{At: m.At, TrustDomain: s.authority.TrustDomain(), Source: s.authority.Source(), Roots: []issuer{}, Intermediates: []issuer{}, Findings: []string{}, Leaves: []leaf{}}
	out.Control.NotAfter = s.source.Status().NotAfter
	signs := s.authority.Root()
	for _, c := range s.authority.Roots() {
		x := issuerOf(c)
		x.ID, x.Signs = mtls.BundleID(c), c.Equal(signs)
		out.Roots = append(out.Roots, x)
	}
	if st, err := s.caStatus(ctx); err == nil {
		out.Rotation = rotating{Step: string(st.Rotation.Step), Old: st.Rotation.Old, New: st.Rotation.New, Waiting: st.Waiting}
		if !st.Rotation.Since.IsZero() {
			out.Rotation.Since = &st.Rotation.Since
		}
	} else {
		out.Findings = append(out.Findings, "how the rotation of the root fares is not known: "+err.Error())
	}
	for _, x := range s.expiring(m.At) {
		out.Findings = append(out.Findings, x.String())
	}
	between := map[string]bool{}
	for _, t := range s.discovery.Trusting() {
		if len(t.Chain) == 0 {
			continue
		}
		c := t.Chain[0]
		x := leaf{Proxy: t.ID, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Serial: c.SerialNumber.Text(16)}
		if len(c.URIs) == 1 {
			x.Identity = c.URIs[0].String()
		}
		// A stream outlives the certificate that it was opened with.
		if v, _, _, ok := s.scraper.memory.vital(t.ID); ok {
			if end := unix(v.CertificateNotAfter); end != nil && end.After(x.NotAfter) {
				x.NotAfter, x.NotBefore, x.Serial = *end, time.Time{}, ""
			}
		}
		for _, r := range s.authority.Roots() {
			if mtls.LeadsTo(t.Chain, m.At, r) {
				x.Root = mtls.BundleID(r)
			}
		}
		out.Leaves = append(out.Leaves, x)
		for _, c := range t.Chain[1:] {
			if !between[string(c.Raw)] && c.IsCA && !slices.ContainsFunc(s.authority.Roots(), c.Equal) && len(between) < maxBehind {
				between[string(c.Raw)] = true
				out.Intermediates = append(out.Intermediates, issuerOf(c))
			}
		}
	}
	slices.SortFunc(out.Intermediates, func(a, b issuer) int { return a.NotAfter.Compare(b.NotAfter) })
	slices.SortFunc(out.Leaves, func(a, b leaf) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.Proxy, b.Proxy))
	})
	out.LeftOut = max(len(out.Leaves)-maxLeaves, 0)
	out.Leaves = out.Leaves[:len(out.Leaves)-out.LeftOut]
	return out
}

// nextToEnd is the certificate that ends next.
func (s *server) nextToEnd(list []proxyState) *nextToEnd {
	var out *nextToEnd
	take := func(what string, end time.Time) {
		if !end.IsZero() && (out == nil || end.Before(out.NotAfter)) {
			out = &nextToEnd{what, end.UTC()}
		}
	}
	take("the authority", s.authority.NotAfter())
	take("the control plane", s.source.Status().NotAfter)
	for i := range list {
		if end := list[i].Certificate; end != nil {
			take("leaf of "+list[i].ID, *end)
		}
	}
	return out
}
