//go:build linux

package proxy

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/seinemesh/seine/decide"
)

// ClusterView is what /endpoints shows of a cluster.
type ClusterView struct {
	Cluster     string         `json:"cluster"` // Envoy's name
	Source      string         `json:"source,omitempty"`
	Connections *LimitView     `json:"connections,omitempty"`
	Pending     *LimitView     `json:"pendingRequests,omitempty"`
	Requests    *LimitView     `json:"requests,omitempty"` // counted only where they are bounded
	Retries     *LimitView     `json:"retries,omitempty"`
	Endpoints   []EndpointView `json:"endpoints"`
}

// LimitView is a count and its bound; 0: none.
type LimitView struct {
	Now   int64  `json:"now"`
	Limit uint32 `json:"limit"`
}

// EndpointView is one endpoint.
type EndpointView struct {
	ID       string        `json:"id"`
	Address  string        `json:"address"`
	Identity string        `json:"identity,omitempty"`
	Errors   *ErrorsView   `json:"consecutiveErrors,omitempty"` // where outlier detection watches
	Ejected  *EjectionView `json:"ejected,omitempty"`
	Times    int           `json:"ejections,omitempty"` // so far
}

// ErrorsView are present counts.
type ErrorsView struct {
	Errors5xx uint32 `json:"5xx"`
	Gateway   uint32 `json:"gateway"`
	Local     uint32 `json:"localOrigin"`
}

// EjectionView says why an endpoint is out.
type EjectionView struct {
	Cause string    `json:"cause"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // at the earliest
}

// View is what the proxy knows of the clusters in use.
func (p *Proxy) View() []ClusterView {
	out := []ClusterView{}
	for _, subsets := range p.tables.Table().Clusters {
		for _, c := range subsets {
			out = append(out, p.view(c))
		}
	}
	slices.SortFunc(out, func(a, b ClusterView) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return out
}

func (p *Proxy) view(c *decide.Cluster) ClusterView {
	v := ClusterView{Cluster: clusterName(c), Endpoints: make([]EndpointView, 0, len(c.Endpoints))}
	if c.Service.Proto.Source != nil {
		v.Source = decide.Source(c.Service.Proto.Source)
	}
	sh := p.shared(c)
	if sh != nil {
		l := sh.limits.Load()
		v.Connections = &LimitView{sh.conns.Value(), l.MaxConnections}
		v.Pending = &LimitView{sh.pending.Value(), l.MaxPending}
		v.Requests = &LimitView{sh.requests.Value(), l.MaxRequests}
		v.Retries = &LimitView{sh.retries.Value(), l.MaxRetries}
		sh.mu.Lock()
		defer sh.mu.Unlock()
	}
	for _, e := range c.Endpoints {
		key := endpointKey(e)
		k := EndpointView{ID: e.Proto.Id, Address: key, Identity: e.Identity}
		if sh != nil && sh.detector != nil {
			if s, ok := sh.detector.State(key); ok {
				k.Errors, k.Times = &ErrorsView{}, s.Times
				k.Errors.Errors5xx, k.Errors.Gateway, k.Errors.Local = s.Counter.Values()
				if s.Out {
					k.Ejected = &EjectionView{s.Cause.String(), s.Since, s.Until}
				}
			}
		}
		v.Endpoints = append(v.Endpoints, k)
	}
	return v
}

// endpoints shows clusters, their limits and their endpoints' health.
func (s *Status) endpoints(w http.ResponseWriter, _ *http.Request) {
	out := []ClusterView{}
	if p := s.proxy.Load(); p != nil {
		out = p.View()
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(out)
}
