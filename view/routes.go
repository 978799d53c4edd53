package view

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/explain"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/telemetry"
)

// Routes are the rules in force.
type Routes struct {
	At      time.Time `json:"at"`
	Routes  []Route   `json:"routes"`
	LeftOut int       `json:"left_out"`
}

// Route is one rule for one port of a service, as callers of the service's own
// namespace that nothing else describes are told it.
type Route struct {
	ID           string   `json:"id"` // KIND NAMESPACE/NAME[INDEX]
	Service      string   `json:"service"`
	Port         uint32   `json:"port"`
	Kind         string   `json:"kind"` // http, tcp
	Source       Resource `json:"source"`
	Matches      []string `json:"matches"` // any of them; none: everything
	Destinations []Target `json:"destinations"`
	Timeout      float64  `json:"timeout_ms,omitempty"`
	Retries      string   `json:"retries,omitempty"`
	Mirrors      []string `json:"mirrors"`
	Fault        string   `json:"fault,omitempty"`
	Answer       string   `json:"answer,omitempty"` // what is answered without asking anybody
	// What came to it lately, as callers measured; absent if nothing did.
	*stat.Traffic
}

// Target is where a share of a rule's requests goes.
type Target struct {
	Host   string  `json:"host"`
	Subset string  `json:"subset,omitempty"`
	Port   uint32  `json:"port"`
	Weight uint32  `json:"weight"`
	Wanted float64 `json:"wanted"` // 0..1
	// Measured is the share of the service's requests that went there; absent
	// where other rules send requests to the service too.
	Measured *float64 `json:"measured,omitempty"`
	Versions []string `json:"versions,omitempty"`
}

// Resource is a resource of the user's.
type Resource struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
}

func resourceOf(r *seinev1.Ref) Resource {
	return Resource{r.GetKind(), r.GetNamespace(), r.GetName(), r.GetFile(), int(r.GetLine())}
}

// Routes are those of one service, or "" of all.
func (m *Moment) Routes(host string) *Routes {
	x := m.index()
	out := &Routes{At: m.At, Routes: []Route{}}
	for _, svc := range x.sortedServices() {
		if host != "" && svc.Host != host {
			continue
		}
		if list := x.routesOf(svc); len(out.Routes) < maxList {
			out.Routes = append(out.Routes, list...)
		} else {
			out.LeftOut += len(list)
		}
	}
	return out
}

func (x *index) sortedServices() []*mesh.Service {
	list := make([]*mesh.Service, 0, len(x.services))
	for _, svc := range x.services {
		list = append(list, svc)
	}
	slices.SortFunc(list, func(a, b *mesh.Service) int { return cmp.Compare(a.Host, b.Host) })
	return list
}

// someone is a caller in a namespace that nothing else describes.
func someone(namespace string) *mesh.Workload {
	return &mesh.Workload{Ref: mesh.Ref{Kind: "Workload", Namespace: namespace, Name: "someone"}, Instance: "someone", ServiceAccount: "default", Sidecar: true}
}

func isHTTP(p seinev1.Protocol) bool {
	switch p {
	case seinev1.Protocol_PROTOCOL_HTTP, seinev1.Protocol_PROTOCOL_HTTP2, seinev1.Protocol_PROTOCOL_GRPC, seinev1.Protocol_PROTOCOL_DETECT:
		return true
	}
	return false
}

func (x *index) routesOf(svc *mesh.Service) []Route {
	w := someone(svc.Namespace)
	var out []Route
	for i := range svc.Ports {
		p := &svc.Ports[i]
		if isHTTP(p.Protocol) && !strings.HasPrefix(svc.Host, "*") {
			a := plan.Answer(x.Snapshot, w, seinev1.AnswerName{Port: uint16(p.Number), Host: svc.Host}.String())
			for _, r := range a.GetHttp() {
				out = append(out, x.httpRoute(svc, p.Number, r, w, len(a.Http) == 1))
			}
			continue
		}
		if len(svc.Addresses) == 0 {
			continue
		}
		a := plan.Answer(x.Snapshot, w, seinev1.AnswerName{Address: netip.AddrPortFrom(svc.Addresses[0], uint16(p.Number))}.String())
		for _, r := range a.GetTcp() {
			route := Route{ID: telemetry.ResourceID(r.Source, r.Index), Service: svc.Host, Port: p.Number, Kind: "tcp", Source: resourceOf(r.Source), Matches: []string{}, Mirrors: []string{}}
			route.Destinations = x.targets(r.Destinations, w, svc.Host, false)
			out = append(out, route)
		}
	}
	return out
}

// httpRoute is one rule; only, whether it is the only one of its port.
func (x *index) httpRoute(svc *mesh.Service, port uint32, r *seinev1.HttpRule, w *mesh.Workload, only bool) Route {
	out := Route{ID: telemetry.RuleID(r), Service: svc.Host, Port: port, Kind: "http", Source: resourceOf(r.Source), Matches: []string{}, Mirrors: []string{}}
	if sum := x.Rules[stat.Rule{ID: out.ID, Service: svc.Host, Port: port}]; sum != nil {
		t := sum.Traffic()
		out.Traffic = &t
	}
	for _, m := range r.Match {
		if text := explain.Describe(m); len(out.Matches) < maxWithin {
			out.Matches = append(out.Matches, text)
		}
	}
	out.Destinations = x.targets(r.Destinations, w, svc.Host, only)
	if r.Timeout != nil {
		out.Timeout = milliseconds(r.Timeout)
	}
	if r.Retry != nil {
		out.Retries = "none"
		if r.Retry.Attempts > 0 {
			out.Retries = fmt.Sprintf("%d on %s", r.Retry.Attempts, cmp.Or(strings.Join(r.Retry.On, ","), "the default conditions"))
		}
	}
	for _, mirror := range r.Mirrors {
		out.Mirrors = append(out.Mirrors, fmt.Sprintf("%s to %s", percent(mirror.PerMillion), destinationName(mirror.Destination)))
	}
	if f := r.Fault; f != nil {
		var parts []string
		if d := f.Delay; d != nil {
			parts = append(parts, fmt.Sprintf("%s delayed by %s", percent(d.PerMillion), d.Fixed.AsDuration()))
		}
		if a := f.Abort; a != nil {
			parts = append(parts, fmt.Sprintf("%s aborted with %d", percent(a.PerMillion), max(a.HttpStatus, a.GrpcStatus)))
		}
		out.Fault = strings.Join(parts, ", ")
	}
	switch {
	case r.Redirect != nil:
		out.Answer = fmt.Sprintf("redirect %d", cmp.Or(r.Redirect.Code, 301))
	case r.DirectResponse != nil:
		out.Answer = fmt.Sprintf("status %d", r.DirectResponse.Status)
	}
	return out
}

func destinationName(d *seinev1.Destination) string {
	if d.Subset != "" {
		return fmt.Sprintf("%s:%d %s", d.Host, d.Port, d.Subset)
	}
	return fmt.Sprintf("%s:%d", d.Host, d.Port)
}

// targets are a rule's destinations. measured says whether the versions' shares
// of the service are those of the rule.
func (x *index) targets(list []*seinev1.Destination, w *mesh.Workload, host string, measured bool) []Target {
	var total uint64
	for _, d := range list {
		total += uint64(d.Weight)
	}
	requests, all := map[string]float64{}, 0.0
	if measured {
		for _, d := range list {
			measured = measured && d.Host == host
		}
		for _, f := range x.byService[host] {
			requests[f.Version] += f.Requests
			all += f.Requests
		}
	}
	out := []Target{}
	for _, d := range list {
		t := Target{Host: d.Host, Subset: d.Subset, Port: d.Port, Weight: d.Weight}
		switch {
		case total > 0:
			t.Wanted = float64(d.Weight) / float64(total)
		case len(list) == 1:
			t.Wanted = 1
		}
		n := 0.0
		for version := range x.versionsOf(d, w) {
			t.Versions = append(t.Versions, version)
			n += requests[version]
		}
		slices.Sort(t.Versions)
		if measured && all > 0 {
			share := n / all
			t.Measured = &share
		}
		out = append(out, t)
	}
	return out
}

// versionsOf counts the instances behind a destination by their version.
func (x *index) versionsOf(d *seinev1.Destination, w *mesh.Workload) map[string]int {
	svc := x.Snapshot.Service(d.Host, w.Namespace)
	if svc == nil {
		return nil
	}
	var labels map[string]string
	if d.Subset != "" {
		s := plan.Service(x.Snapshot, w, seinev1.ServiceKey(d.Host, d.Port))
		i := slices.IndexFunc(s.GetSubsets(), func(s *seinev1.Subset) bool { return s.Name == d.Subset })
		if i < 0 {
			return nil
		}
		labels = s.Subsets[i].Labels
	}
	out := map[string]int{}
	for _, m := range x.Snapshot.Members(svc) {
		if mesh.Selects(labels, m.Labels) {
			out[versionOf(m)]++
		}
	}
	return out
}

// wantedKey names what one caller is told of one host.
type wantedKey struct{ source, host string }

// wantedShares is how a rule splits requests by version.
type wantedShares struct {
	route  string
	shares map[string]float64
}

// wantedOf is how the rule that catches all splits what source (a workload, "":
// someone in the service's namespace) asks of host; nil where no user's rule does.
func (x *index) wantedOf(source, host string) *wantedShares {
	k := wantedKey{source, host}
	if got, ok := x.wanted[k]; ok {
		return got
	}
	x.wanted[k] = nil
	svc := x.services[host]
	if svc == nil || strings.HasPrefix(host, "*") {
		return nil
	}
	w := someone(svc.Namespace)
	if a := x.workloads[source]; a != nil {
		w = a.instances[0]
	}
	for i := range svc.Ports {
		p := &svc.Ports[i]
		if !isHTTP(p.Protocol) {
			continue
		}
		for _, r := range plan.Answer(x.Snapshot, w, seinev1.AnswerName{Port: uint16(p.Number), Host: host}.String()).GetHttp() {
			if len(r.Match) > 0 || r.Source.GetKind() == "Service" || r.Source.GetKind() == "ServiceEntry" {
				continue
			}
			x.wanted[k] = x.split(r, host, w)
			return x.wanted[k]
		}
	}
	return nil
}

func (x *index) split(r *seinev1.HttpRule, host string, w *mesh.Workload) *wantedShares {
	out := &wantedShares{route: telemetry.RuleID(r), shares: map[string]float64{}}
	for _, t := range x.targets(r.Destinations, w, host, false) {
		if t.Host != host {
			continue // counted there
		}
		counts := x.versionsOf(&seinev1.Destination{Host: t.Host, Port: t.Port, Subset: t.Subset}, w)
		all := 0
		for _, n := range counts {
			all += n
		}
		for version, n := range counts {
			out.shares[version] += t.Wanted * float64(n) / float64(all)
		}
	}
	if len(out.shares) == 0 {
		return nil
	}
	return out
}
