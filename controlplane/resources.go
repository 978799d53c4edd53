package controlplane

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/view"
)

// behind is a proxy that has not acknowledged everything.
type behind struct {
	ID         string  `json:"id"`
	Generation uint64  `json:"generation"`
	Seconds    float64 `json:"seconds"` // since the configuration that runs was taken
}

// maxBehind is how many of them are named.
const maxBehind = 100

// getConfig answers what runs, what was found in it, and who has it.
func (s *server) getConfig(w http.ResponseWriter, r *http.Request) {
	state, _ := s.config.current()
	type acknowledged struct {
		Proxies int      `json:"proxies"`
		Current int      `json:"current"`
		Behind  []behind `json:"behind"`
	}
	type counted struct {
		change
		Has     int `json:"acknowledged"`
		Proxies int `json:"proxies"`
	}
	out := struct {
		ConfigState
		Acknowledged acknowledged `json:"acknowledged"`
		Changes      []counted    `json:"changes"`
	}{ConfigState: state, Acknowledged: acknowledged{Behind: []behind{}}, Changes: []counted{}}
	proxies := s.discovery.Proxies()
	out.Acknowledged.Proxies = len(proxies)
	for i := range proxies {
		if proxies[i].Current {
			out.Acknowledged.Current++
		} else if len(out.Acknowledged.Behind) < maxBehind {
			out.Acknowledged.Behind = append(out.Acknowledged.Behind, behind{proxies[i].ID, proxies[i].Generation, time.Since(state.Loaded).Seconds()})
		}
	}
	for _, c := range s.scraper.memory.latestChanges() {
		x := counted{change: c, Proxies: len(proxies)}
		for i := range proxies {
			if proxies[i].Generation >= c.Generation {
				x.Has++
			}
		}
		out.Changes = append(out.Changes, x)
	}
	answer(w, out)
}

// maxResources is how many resources are listed.
const maxResources = 5000

// resource is one of the user's, with what is to be said of it.
type resource struct {
	view.Resource
	Created   *time.Time      `json:"created,omitempty"`
	State     string          `json:"state"` // ok, warning, error, refused
	Findings  config.Findings `json:"findings"`
	RefusedBy []refusal       `json:"refused_by"`
}

type refusal struct {
	Proxy   string `json:"proxy"`
	Message string `json:"message"`
}

// resources are those that the configuration is made of, and those that were not
// taken.
func (s *server) resources(m *view.Moment) any {
	state, _ := s.config.current()
	type key struct{ kind, namespace, name string }
	by := map[key]*resource{}
	var order []*resource
	of := func(k key) *resource {
		r := by[k]
		if r == nil {
			r = &resource{Resource: view.Resource{Kind: k.kind, Namespace: k.namespace, Name: k.name}, State: "ok", Findings: config.Findings{}, RefusedBy: []refusal{}}
			by[k] = r
			order = append(order, r)
		}
		return r
	}
	for _, ref := range refs(m.Snapshot) {
		r := of(key{ref.Kind, ref.Namespace, ref.Name})
		r.File, r.Line = ref.File, ref.Line
		if !ref.Created.IsZero() {
			r.Created = &ref.Created
		}
	}
	for _, f := range state.Findings {
		if f.Kind == "" {
			continue
		}
		r := of(key{f.Kind, f.Namespace, f.Name})
		r.Findings = append(r.Findings, f)
		r.File = cmp.Or(r.File, f.File)
		switch {
		case f.Refused:
			r.State = "refused"
		case r.State == "refused", f.Severity == config.Info, r.State == "error":
		default:
			r.State = f.Severity.String()
		}
	}
	bySource := map[string]*resource{}
	for _, r := range order {
		bySource[r.Kind+" "+r.Namespace+"/"+r.Name] = r
	}
	for _, p := range s.discovery.Proxies() {
		for _, x := range p.Rejected {
			for source, r := range bySource {
				// FILE:LINE KIND NAMESPACE/NAME, or without the file
				if (x.Source == source || len(x.Source) > len(source) && x.Source[len(x.Source)-len(source)-1:] == " "+source) && len(r.RefusedBy) < maxBehind {
					r.State = "refused"
					r.RefusedBy = append(r.RefusedBy, refusal{p.ID, x.Message})
				}
			}
		}
	}
	slices.SortFunc(order, func(a, b *resource) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	left := max(len(order)-maxResources, 0)
	if order == nil {
		order = []*resource{}
	}
	return struct {
		At        time.Time   `json:"at"`
		Resources []*resource `json:"resources"`
		LeftOut   int         `json:"left_out"`
	}{m.At, order[:len(order)-left], left}
}

// refs are the resources of a snapshot that people write.
func refs(s *mesh.Snapshot) (out []*mesh.Ref) {
	for _, x := range s.Services {
		out = append(out, &x.Ref)
	}
	for _, x := range s.VirtualServices {
		out = append(out, &x.Ref)
	}
	for _, x := range s.GatewayRoutes {
		out = append(out, &x.Ref)
	}
	for _, x := range s.DestinationRules {
		out = append(out, &x.Ref)
	}
	for _, x := range s.PeerAuth {
		out = append(out, &x.Ref)
	}
	for _, x := range s.RateLimits {
		out = append(out, &x.Ref)
	}
	for _, x := range s.Authorizations {
		out = append(out, &x.Ref)
	}
	return out
}
