package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/message"
	"github.com/seinemesh/seine/plan"
)

// request runs the rules of an HTTP answer.
func (e *explanation) request(a *decide.Answer, direct bool, port uint16) error {
	head := e.head()
	if e.a.Service == "" {
		e.a.Service = a.Proto.Service
	}
	if direct {
		e.say("That is %s itself: it alone gets the request.", a.Proto.DirectEndpoint)
	}
	r, match := a.Match(head, uint32(port))
	e.tellRules(a, r, match, head, port)
	if r == nil {
		e.reject(NoRoute, 404, "NR")
		e.say("No rule matches: 404.")
		return nil
	}
	e.route(r.Proto.Source, r.Proto.Index)
	if d := r.Proto.Delegate; d != nil {
		e.a.Route.Delegate = d.Namespace + "/" + d.Name
		e.say("It delegates to %s, spec.http[%d].", decide.Source(d), r.Proto.DelegateIndex)
	}
	if r.Timeout > 0 {
		e.a.Timeout = r.Timeout.String()
	}
	e.response(r.Response)
	if e.fault(r) || e.cors(r, head) {
		return nil
	}
	switch {
	case r.Redirect != nil:
		e.a.Outcome, e.a.Status = Redirect, r.RedirectStatus()
		e.a.Location = string(r.AppendLocation(nil, match, head, "http", port))
		e.a.Timeout = ""
		e.say("It redirects: %d to %s.", e.a.Status, e.a.Location)
	case r.Direct != nil:
		e.a.Outcome, e.a.Status, e.a.Body = Respond, int(r.Direct.Status), string(r.Direct.Body)
		e.a.Timeout = ""
		e.say("It answers itself: %d.", e.a.Status)
	default:
		e.sent(r, match, head)
		e.retries(r.Retry)
		e.mirrors(r)
		if err := e.upstream(r.Destinations, a, r); err != nil {
			return err
		}
	}
	for _, p := range r.Proto.Unsupported {
		e.unsupported(p, "%s: %s is not implemented in this version.", decide.Source(r.Proto.Source), p)
	}
	if len(e.a.Unsupported) > 0 {
		e.a.Outcome, e.a.Reason = Unsupported, ""
	}
	return nil
}

// tellRules says why each rule before the one that matched did not.
func (e *explanation) tellRules(a *decide.Answer, r *decide.Rule, match int, head *message.Request, port uint16) {
	if a.ByAddress() {
		e.tellGatewayRules(a, r, head, port)
		return
	}
	vs := e.virtualService(a.Proto.Source)
	if vs == nil {
		return
	}
	for _, rule := range vs.HTTP {
		if r != nil && rule.Index == r.Proto.Index && rule.DelegateIndex == r.Proto.DelegateIndex {
			at := ""
			if match >= 0 {
				keep := plan.HTTPMatches(rule, e.from, uint32(port))
				at = fmt.Sprintf(" by match[%d] (%s)", keep[match], Describe(rule.Match[keep[match]]))
			}
			e.say("%s matches%s.", ruleName(rule), at)
			return
		}
		if len(rule.Match) == 0 {
			continue
		}
		var why []string
		for i, m := range rule.Match {
			reason := plan.NotFor(m, e.from, uint32(port))
			if reason == "" {
				reason = mismatch(m, head, uint32(port))
			}
			if len(rule.Match) > 1 {
				reason = fmt.Sprintf("match[%d] %s", i, reason)
			}
			why = append(why, reason)
		}
		e.say("%s does not match: %s.", ruleName(rule), strings.Join(why, "; "))
	}
}

func (e *explanation) virtualService(r *seinev1.Ref) *mesh.VirtualService {
	if r.GetKind() != "VirtualService" {
		return nil
	}
	for _, vs := range e.s.VirtualServices {
		if vs.Namespace == r.Namespace && vs.Name == r.Name {
			return vs
		}
	}
	return nil
}

func ruleName(r *seinev1.HttpRule) string {
	name := fmt.Sprintf("spec.http[%d]", r.Index)
	if r.Name != "" {
		name += fmt.Sprintf(" %q", r.Name)
	}
	if r.Source.GetFile() != "" {
		name += fmt.Sprintf(" (%s:%d)", r.Source.File, r.Source.Line)
	}
	return name
}

// sent writes the request as it goes to each destination.
func (e *explanation) sent(r *decide.Rule, match int, head *message.Request) {
	path := string(r.AppendPath(nil, match, head.Path))
	for i := range r.Destinations {
		d := &r.Destinations[i]
		req := &Request{Authority: string(r.AppendAuthority(nil, d, head.Authority)), Path: path, Headers: edited(head, d.Request)}
		e.a.Destinations = append(e.a.Destinations, Destination{Host: d.Host, Subset: d.Subset, Port: d.Port, Weight: d.Weight, Status: d.Status, Request: req})
	}
	if len(e.a.Destinations) == 0 {
		return
	}
	first, same := e.a.Destinations[0].Request, true
	for _, d := range e.a.Destinations {
		same = same && d.Request.Authority == first.Authority && equalHeaders(d.Request.Headers, first.Headers)
	}
	e.a.Request = first
	if same {
		for i := range e.a.Destinations {
			e.a.Destinations[i].Request = nil
		}
	}
	if path != string(head.Path) {
		e.say("The path is rewritten to %s.", path)
	}
	if first.Authority != string(head.Authority) {
		e.say("The authority is rewritten to %s.", first.Authority)
	}
	e.response(r.Destinations[0].Response)
}

func equalHeaders(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func edited(head *message.Request, edits *decide.Edits) map[string]string {
	out := map[string]string{}
	add := func(name, value string) {
		if old, ok := out[name]; ok {
			value = old + "," + value
		}
		out[name] = value
	}
	for _, f := range head.Fields {
		if !edits.Drops(f.Name) {
			add(strings.ToLower(string(f.Name)), string(f.Value))
		}
	}
	for _, p := range edits.Added() {
		add(p.Name, p.Value)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (e *explanation) response(edits *decide.Edits) {
	if edits == nil {
		e.a.Response = nil
		return
	}
	r := &Response{Headers: map[string]string{}}
	for _, p := range edits.Added() {
		if old, ok := r.Headers[p.Name]; ok {
			p.Value = old + "," + p.Value
		}
		r.Headers[p.Name] = p.Value
	}
	for _, name := range edits.Removed() {
		if _, written := r.Headers[name]; !written {
			r.Removed = append(r.Removed, name)
		}
	}
	e.a.Response = r
}

// upstream looks at the destinations: their services, subsets, endpoints, and
// how these are spoken to.
func (e *explanation) upstream(dests []decide.Destination, a *decide.Answer, r *decide.Rule) error {
	if r == nil {
		for i := range dests {
			d := &dests[i]
			e.a.Destinations = append(e.a.Destinations, Destination{Host: d.Host, Subset: d.Subset, Port: d.Port, Weight: d.Weight})
		}
	}
	if len(dests) == 0 {
		e.reject(NoEndpoints, 503, "UH")
		e.say("Every destination of the rule has weight 0: 503.")
		return nil
	}
	if e.a.Port == 0 && dests[0].Status == 0 {
		e.a.Port = dests[0].Port
	}
	e.a.Outcome = Forward
	var total, lost uint64
	var failed []failure
	for i := range dests {
		total += uint64(dests[i].Weight)
	}
	for i := range dests {
		d := &dests[i]
		if len(dests) > 1 {
			e.say("%s gets %s of the requests, by a random draw for each.", destinationName(d), percent(uint64(d.Weight), total))
		}
		if d.Status != 0 {
			e.say("It is answered with %d: %s.", d.Status, d.Reason)
			failed = append(failed, failure{NoService, "NC"})
			lost += uint64(d.Weight)
			continue
		}
		f, err := e.destination(d, a, i == 0)
		if err != nil {
			return err
		}
		if f.reason != "" {
			failed = append(failed, f)
			lost += uint64(d.Weight)
		}
	}
	switch {
	case len(failed) == len(dests):
		e.reject(failed[0].reason, cmp.Or(dests[0].Status, 503), failed[0].flag)
		if len(e.a.Unsupported) > 0 {
			e.a.Outcome, e.a.Reason = Unsupported, ""
		}
	case len(failed) > 0:
		e.say("%s of the requests fail.", percent(lost, total))
		fallthrough
	default:
		if len(e.a.Unsupported) > 0 {
			e.a.Outcome = Unsupported
		}
	}
	return nil
}

// failure is why requests to one destination fail; none if reason is empty.
type failure struct{ reason, flag string }

func percent(part, of uint64) string {
	if part*100%of == 0 {
		return fmt.Sprintf("%d %%", part*100/of)
	}
	return fmt.Sprintf("%.1f %%", float64(part)*100/float64(of))
}

func destinationName(d *decide.Destination) string {
	if d.Status != 0 {
		return "A backend that is none"
	}
	name := fmt.Sprintf("%s port %d", d.Host, d.Port)
	if d.Subset != "" {
		name += ", subset " + d.Subset
	}
	return name
}

var balancers = map[seinev1.TrafficPolicy_Balancer]string{
	seinev1.TrafficPolicy_DEFAULT: "LEAST_REQUEST", seinev1.TrafficPolicy_LEAST_REQUEST: "LEAST_REQUEST",
	seinev1.TrafficPolicy_ROUND_ROBIN: "ROUND_ROBIN", seinev1.TrafficPolicy_RANDOM: "RANDOM", seinev1.TrafficPolicy_PASSTHROUGH: "PASSTHROUGH",
}

// balancer is the name of how an endpoint is picked, as Envoy calls it.
func balancer(c *decide.Cluster) string {
	switch h := c.Policy.Hash; {
	case h == nil:
		return balancers[c.Policy.Balancer]
	case h.TableSize > 0:
		return "MAGLEV"
	}
	return "RING_HASH"
}

// tellBalancer says how an endpoint is picked.
func (e *explanation) tellBalancer(c *decide.Cluster) {
	p := c.Policy
	hashed := func(what string, size uint64) {
		with := "ring hash"
		if p.Hash.TableSize > 0 {
			with, size = "Maglev", uint64(p.Hash.TableSize)
		}
		if size > 0 {
			with += fmt.Sprintf(" of %d entries", size)
		}
		e.once("Equal values of %s go to the same endpoint (%s).", what, with)
	}
	switch h := p.Hash; {
	case h.GetHeader() != "":
		hashed("the header "+h.GetHeader(), h.RingSize)
	case h.GetCookie() != nil:
		hashed("the cookie "+h.GetCookie().Name, h.RingSize)
		if h.GetCookie().Ttl != nil {
			e.once("A client without the cookie %s gets it with the answer.", h.GetCookie().Name)
		}
	case h.GetQuery() != "":
		hashed("the query parameter "+h.GetQuery(), h.RingSize)
	case h.GetSourceIp():
		hashed("the caller's address", h.RingSize)
	case p.Balancer == seinev1.TrafficPolicy_PASSTHROUGH:
		e.once("The endpoint at the address that was dialled is taken; if that is the service's own, one is drawn.")
	case p.Balancer == seinev1.TrafficPolicy_DEFAULT && len(c.Endpoints) > 1:
		e.once("No balancer is written: of two endpoints that are drawn, the one with less latency × requests in flight is taken.")
	}
	if w := p.Warmup; w != nil && p.Hash == nil && (p.Balancer == seinev1.TrafficPolicy_DEFAULT || p.Balancer == seinev1.TrafficPolicy_ROUND_ROBIN || p.Balancer == seinev1.TrafficPolicy_LEAST_REQUEST) {
		e.once("A new endpoint warms up for %s, from %g %% of its share.", w.Duration.AsDuration(), w.MinimumPercent)
	}
	tiers := c.Tiers()
	if len(tiers) < 2 && (p.Locality == nil || p.Locality.Caller == "" || len(p.Locality.Distribute) == 0) {
		return
	}
	for _, t := range tiers {
		var places []string
		for _, ep := range t.Endpoints {
			if name := cmp.Or(ep.Proto.Locality, "no locality"); !slices.Contains(places, name) {
				places = append(places, name)
			}
		}
		where := strings.Join(places, ", ")
		switch {
		case t.Level > 0:
			e.once("In reserve %d: the endpoints in %s.", t.Level, where)
		case len(p.Locality.Distribute) > 0:
			e.once("%s: %s of the requests from %s (localityLbSetting).", where, percent(t.Weight, t.Of), p.Locality.Caller)
		default:
			e.once("First: the endpoints in %s, as the caller's locality is %s (localityLbSetting).", where, cmp.Or(p.Locality.Caller, "not known"))
		}
	}
}

var tlsModes = map[seinev1.TrafficPolicy_Tls]string{
	seinev1.TrafficPolicy_AUTO: "auto", seinev1.TrafficPolicy_TLS_DISABLE: "none", seinev1.TrafficPolicy_ISTIO_MUTUAL: "istio_mutual",
	seinev1.TrafficPolicy_SIMPLE: "simple", seinev1.TrafficPolicy_MUTUAL: "simple",
}

func (e *explanation) destination(d *decide.Destination, a *decide.Answer, first bool) (failure, error) {
	p := plan.Service(e.s, e.from, d.Key)
	if p == nil {
		e.say("There is no service %s with port %d that namespace %s sees: 503.", d.Host, d.Port, e.from.Namespace)
		return failure{NoService, "NC"}, nil
	}
	svc, err := decide.CompileService(p)
	if err != nil {
		return failure{}, err
	}
	var eps []*decide.Endpoint
	for _, ep := range plan.Endpoints(e.s, e.from, d.Key) {
		c, err := decide.CompileEndpoint(ep)
		if err != nil {
			return failure{}, err
		}
		eps = append(eps, c)
	}
	e.unsupportedOf(p, d)
	c := svc.Clusters(eps)[d.Subset]
	if c == nil {
		if p.Source == nil {
			e.say("No DestinationRule defines the subset %s of %s: 503.", d.Subset, d.Host)
		} else {
			e.say("%s defines no subset %s of %s: 503.", decide.Source(p.Source), d.Subset, d.Host)
		}
		return failure{NoService, "NC"}, nil
	}
	if p.Source != nil {
		e.once("%s holds for %s.", decide.Source(p.Source), d.Host)
	}
	if first {
		e.a.Upstream = upstreamOf(c)
	}
	e.guards(c, d.Host)
	if c.Original() {
		e.say("%s is reached at the address that was dialled, whichever that is.", d.Host)
		return failure{}, nil
	}
	list := c.Endpoints
	if a.Proto.DirectEndpoint != "" {
		list = nil
		if ep := c.Endpoint(a.Proto.DirectEndpoint); ep != nil {
			list = []*decide.Endpoint{ep.At(e.dialled.Addr())}
		}
	}
	for _, ep := range eps {
		if a.Proto.DirectEndpoint == "" && ep.Proto.Unhealthy && !slices.Contains(list, ep) && mesh.Selects(subsetLabels(p, d.Subset), ep.Proto.Labels) {
			e.a.Endpoints = append(e.a.Endpoints, endpointOf(e, ep, d.Subset, ""))
			if why := ep.Proto.Aside; why != "" {
				e.say("%s is not picked: %s.", endpointName(ep), why)
			} else {
				e.say("%s is not healthy: it is not picked.", endpointName(ep))
			}
		}
	}
	if len(list) == 0 {
		if len(eps) == 0 && len(e.s.Workloads) == 0 && !p.External {
			e.once("Nothing that was read describes a workload, so that the endpoints of %s are not known here.", d.Host)
			e.presumedMtls(p, first)
			return failure{}, nil
		}
		e.say("%s has no healthy endpoint: 503.", destinationName(d))
		return failure{NoEndpoints, "UH"}, nil
	}
	if a.Proto.DirectEndpoint == "" {
		e.tellBalancer(c)
	}
	return e.endpoints(c, list, d, first), nil
}

// unsupportedOf says what the DestinationRule asks for on this port, for this
// subset, that this version does not do.
func (e *explanation) unsupportedOf(p *seinev1.Service, d *decide.Destination) {
	svc := e.s.Service(p.Host, e.from.Namespace)
	if svc == nil || svc.Host != p.Host {
		return // a workload that stands for itself
	}
	dr := plan.DestinationRule(e.s, e.from, svc)
	if dr == nil {
		return
	}
	for i := range dr.Unsupported {
		if u := &dr.Unsupported[i]; u.Holds(d.Subset, p.Port) {
			e.unsupported(u.Path, "%s: %s is not implemented in this version.", decide.Source(p.Source), u.Path)
		}
	}
}

// presumedMtls says what a workload would receive that has just the labels that
// the service selects.
func (e *explanation) presumedMtls(p *seinev1.Service, first bool) {
	svc := e.s.Service(p.Host, e.from.Namespace)
	if !first || svc == nil || len(svc.Selector) == 0 {
		return
	}
	w := &mesh.Workload{Ref: mesh.Ref{Namespace: svc.Namespace}, Instance: "(any)", Labels: svc.Selector}
	for _, port := range svc.Ports {
		if target, ok := port.TargetOn(w); ok && port.Number == p.Port {
			mode, by := plan.Mtls(snapshotWith(e.s, w), w, target)
			e.a.Mtls = modeName(mode)
			e.say("A workload that it selects receives %s by %s.", e.a.Mtls, decide.Source(by))
		}
	}
}

func subsetLabels(p *seinev1.Service, name string) map[string]string {
	for _, s := range p.Subsets {
		if s.Name == name {
			return s.Labels
		}
	}
	return nil
}

func seconds(d time.Duration) string { return d.String() }

func endpointName(ep *decide.Endpoint) string {
	address := ep.Addr.String()
	if ep.DNS != "" {
		address = fmt.Sprintf("%s:%d", ep.DNS, ep.Port)
	}
	if w := ep.Proto.Workload; w.GetName() != "" {
		return fmt.Sprintf("%s/%s at %s", w.Namespace, w.Name, address)
	}
	return address
}

func endpointOf(e *explanation, ep *decide.Endpoint, subset, tls string) Endpoint {
	out := Endpoint{Address: ep.Addr.String(), Subset: subset, Identity: ep.Identity, TLS: tls, Healthy: !ep.Proto.Unhealthy}
	if ep.DNS != "" {
		out.Address = fmt.Sprintf("%s:%d", ep.DNS, ep.Port)
	}
	if w := ep.Proto.Workload; w.GetName() != "" {
		out.Workload = w.Namespace + "/" + w.Name
	}
	return out
}

var transports = map[decide.Transport]string{decide.Plain: "none", decide.Mutual: "mutual", decide.Simple: "simple", decide.Custom: "simple"}

// endpoints tells how each is spoken to and whether it lets that in.
func (e *explanation) endpoints(c *decide.Cluster, list []*decide.Endpoint, d *decide.Destination, first bool) failure {
	refused := 0
	for i, ep := range list {
		t := c.Transport(ep)
		out := endpointOf(e, ep, d.Subset, transports[t])
		told := ""
		switch t {
		case decide.Mutual:
			id, alts := c.Expect(ep)
			if id != "" {
				alts = append([]string{id}, alts...)
			}
			told = "mutual TLS, the peer must be " + strings.Join(alts, " or ")
			if len(alts) == 0 {
				told = "mutual TLS, but the endpoint has no identity: the connection fails"
				refused++
			}
		case decide.Plain:
			told = "plaintext"
			if e.url.scheme == "tls" && e.url.port != 0 && ep.Identity == "" {
				told = "as it comes: the TLS is the application's own"
			}
			if c.Policy.Tls == seinev1.TrafficPolicy_TLS_DISABLE {
				told += " (a DestinationRule says DISABLE)"
			}
		default:
			sni, alts := c.Originate()
			told = "TLS that the sidecar begins, SNI " + sni
			if len(alts) == 0 {
				alts = []string{sni}
			}
			switch o := c.Policy.GetOriginate(); {
			case o == nil:
				told = "TLS that the sidecar does not begin: a credentialName is for callers of the DestinationRule's own namespace alone: refused"
				refused++
			case sni == "" && !o.GetInsecureSkipVerify():
				told = "TLS that the sidecar begins, but no name is known to verify the server by: the connection fails (set sni)"
				refused++
			case o.GetInsecureSkipVerify():
				told += "; the server is not verified (insecureSkipVerify)"
			default:
				told += "; the server must prove to be " + strings.Join(alts, " or ")
			}
			if name := c.Policy.GetOriginate().GetCredential(); name != "" {
				told += fmt.Sprintf("; by the Secret %s, which the pod must let its sidecar have (annotation seine.dev/credentials)", name)
			}
		}
		if w := e.s.Workload(ep.Proto.Workload.GetNamespace() + "/" + ep.Proto.Workload.GetName()); w != nil && w.Sidecar {
			mode, by := plan.Mtls(e.s, w, uint32(ep.Port))
			out.Mtls = modeName(mode)
			if first && i == 0 {
				e.a.Mtls = out.Mtls
			}
			told += fmt.Sprintf("; it receives %s by %s", out.Mtls, decide.Source(by))
			if t == decide.Plain && mode == seinev1.MtlsMode_MTLS_STRICT {
				told += ", which refuses plaintext"
				refused++
			}
		}
		e.a.Endpoints = append(e.a.Endpoints, out)
		e.say("%s: %s.", endpointName(ep), told)
	}
	if refused == len(list) {
		return failure{Policy, "UC"}
	}
	return failure{}
}

func modeName(m seinev1.MtlsMode) string { return strings.TrimPrefix(m.String(), "MTLS_") }
