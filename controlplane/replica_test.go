package controlplane

import (
	"testing"

	"github.com/seinemesh/seine/config/kube"
	"github.com/seinemesh/seine/discovery"
)

func TestReplicasAreCountedIn(t *testing.T) {
	digest := func(generation uint64) string {
		if generation < 5 {
			return "old"
		}
		return "new"
	}
	for name, tc := range map[string]struct {
		proxies []discovery.Proxy
		want    proxyReport
	}{
		"none":       {nil, proxyReport{0, "new"}},
		"in step":    {[]discovery.Proxy{{Generation: 9}, {Generation: 5}}, proxyReport{2, "new"}},
		"one behind": {[]discovery.Proxy{{Generation: 9}, {Generation: 4}}, proxyReport{2, "old"}},
	} {
		if got := reportOf(tc.proxies, 9, digest); got != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	known := func(d string) (uint64, bool) { return map[string]uint64{"old": 20, "new": 30}[d], d != "strange" }
	for name, tc := range map[string]struct {
		since                         uint64
		other                         proxyReport
		proxies, acknowledged, behind int
	}{
		"both old":            {10, proxyReport{3, "old"}, 5, 5, 0},
		"they are behind":     {30, proxyReport{3, "old"}, 5, 2, 1},
		"they have it":        {30, proxyReport{3, "new"}, 5, 5, 0},
		"they are ahead":      {30, proxyReport{3, "strange"}, 5, 2, 1},
		"nobody is connected": {30, proxyReport{0, "old"}, 2, 2, 0},
	} {
		at := &kube.Taken{Kind: "VirtualService", Namespace: "shop", Name: "r", Since: tc.since}
		r := reach(at, []discovery.Proxy{{Generation: 40}, {Generation: 40}})
		countIn(&r, at, tc.other, known)
		if r.Proxies != tc.proxies || r.Acknowledged != tc.acknowledged || len(r.Behind) != tc.behind {
			t.Errorf("%s: %+v", name, r)
		}
	}
	at := &kube.Taken{Kind: "VirtualService", Namespace: "shop", Name: "r", Since: 7}
	r := reach(at, []discovery.Proxy{{ID: "shop/a", Generation: 6}, {ID: "shop/b", Generation: 9, Rejected: []discovery.Reject{
		{Name: "http/80/x", Source: "VirtualService shop/other", Message: "not this"}, {Name: "http/80/billing", Source: "VirtualService shop/r", Message: " too deep\n"}}}})
	if r.Proxies != 2 || r.Acknowledged != 1 || len(r.Behind) != 1 || r.Behind[0] != "shop/a" || r.Refused != "shop/b refused http/80/billing: too deep" {
		t.Errorf("%+v", r)
	}
}
