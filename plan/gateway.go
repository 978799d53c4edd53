package plan

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// gatewayAnswer fills in the rules of the Gateway API routes that hold for w's
// calls to svc; false if there are none. One of them decides on every request:
// what none matches gets 404.
func gatewayAnswer(a *seinev1.Answer, s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) bool {
	rules := GatewayRules(s, w, svc, p)
	if len(rules) == 0 {
		return false
	}
	for _, r := range rules {
		rule := proto.Clone(r.Rule).(*seinev1.HttpRule)
		rule.Match = []*seinev1.HttpMatch{r.Rule.Match[r.Match]}
		a.Http = append(a.Http, rule)
	}
	a.ByAddress, a.Source = true, rules[0].Rule.Source
	return true
}

// GatewayRule is one match of a Gateway API rule.
type GatewayRule struct {
	Route *mesh.GatewayRoute
	Rule  *seinev1.HttpRule
	Match int // position in Rule.Match
}

// GatewayRules are the rules of the Gateway API routes that hold for w's calls
// to a port of svc, one for each match, in their order of precedence: a request
// takes the first that it matches.
//
// GEP-1426: a consumer's routes (of the caller's namespace, for a Service of
// another) come instead of the producer's (of the Service's own namespace), and
// GRPCRoutes instead of HTTPRoutes. Within a group the matches of all routes are
// ordered together, as HTTPRouteRule and GRPCRouteRule say: by how much of the
// path they fix, then the method, the number of headers, of query parameters,
// and then the older route, the name, the place in it.
func GatewayRules(s *mesh.Snapshot, w *mesh.Workload, svc *mesh.Service, p *mesh.Port) []GatewayRule {
	if svc.Headless || opaque(p.Protocol) {
		return nil // no address stands for it, or nobody reads its requests
	}
	routes := attachedTo(s.GatewayRoutesOf(svc.Host), svc, p.Number, w.Namespace)
	if len(routes) == 0 {
		return nil
	}
	var out []GatewayRule
	for _, r := range routes {
		for _, rule := range r.Rules {
			for m := range rule.Match {
				out = append(out, GatewayRule{r, rule, m})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b GatewayRule) int { return bySpecificity(a.Rule.Match[a.Match], b.Rule.Match[b.Match]) })
	return out
}

// attachedTo are the routes that hold for callers of a namespace, all of one
// kind, the oldest first.
func attachedTo(list []*mesh.GatewayRoute, svc *mesh.Service, port uint32, caller string) []*mesh.GatewayRoute {
	var producers, consumers []*mesh.GatewayRoute
	for _, r := range list {
		if !slices.ContainsFunc(r.Parents, func(p mesh.Parent) bool { return p.Host == svc.Host && (p.Port == 0 || p.Port == port) }) {
			continue
		}
		switch r.Namespace {
		case svc.Namespace:
			producers = append(producers, r)
		case caller:
			consumers = append(consumers, r)
		}
	}
	group := producers
	if len(consumers) > 0 {
		group = consumers
	}
	isGRPC := func(r *mesh.GatewayRoute) bool { return r.Kind == "GRPCRoute" }
	if slices.ContainsFunc(group, isGRPC) {
		group = slices.DeleteFunc(group, func(r *mesh.GatewayRoute) bool { return !isGRPC(r) })
	}
	slices.SortStableFunc(group, func(a, b *mesh.GatewayRoute) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return group
}

// bySpecificity orders two matches of Gateway API rules. A regular expression
// stands between the prefixes and "/", as in Istio.
func bySpecificity(a, b *seinev1.HttpMatch) int {
	aRank, aLength := pathRank(a)
	bRank, bLength := pathRank(b)
	hasMethod := func(m *seinev1.HttpMatch) int {
		if m.Method != nil {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(bRank, aRank),
		cmp.Compare(bLength, aLength),
		cmp.Compare(hasMethod(b), hasMethod(a)),
		cmp.Compare(len(b.Headers), len(a.Headers)),
		cmp.Compare(len(b.Query), len(a.Query)),
	)
}

func pathRank(m *seinev1.HttpMatch) (rank, length int) {
	switch v := m.Uri.GetMatch().(type) {
	case *seinev1.StringMatch_Exact:
		return 3, len(v.Exact)
	case *seinev1.StringMatch_Prefix:
		if n := len(strings.TrimSuffix(v.Prefix, "/")); n > 0 {
			return 2, n
		}
	case *seinev1.StringMatch_Regex:
		return 1, len(v.Regex)
	}
	return 0, 0
}
