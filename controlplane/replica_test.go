package controlplane

import (
	"fmt"
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
		"none":       {nil, proxyReport{Digest: "new"}},
		"in step":    {[]discovery.Proxy{{Generation: 9, Current: true}, {Generation: 5, ID: "shop/b"}}, proxyReport{2, "new", "shop/b"}},
		"one behind": {[]discovery.Proxy{{Generation: 9, ID: "shop/a"}, {Generation: 4, ID: "shop/b"}}, proxyReport{2, "old", "shop/a,shop/b"}},
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
		"both old":            {10, proxyReport{Proxies: 3, Digest: "old"}, 5, 5, 0},
		"they are behind":     {30, proxyReport{Proxies: 3, Digest: "old"}, 5, 2, 1},
		"they have it":        {30, proxyReport{Proxies: 3, Digest: "new"}, 5, 5, 0},
		"they are ahead":      {30, proxyReport{Proxies: 3, Digest: "strange"}, 5, 2, 1},
		"nobody is connected": {30, proxyReport{Proxies: 0, Digest: "old"}, 2, 2, 0},
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

func TestProxiesElsewhere(t *testing.T) {
	var s siblings
	if ids, all := s.behind(); len(ids) != 0 || !all || !s.alone() {
		t.Errorf("%v %v", ids, all)
	}
	many := make([]discovery.Proxy, behindTold+5)
	for i := range many {
		many[i].ID = fmt.Sprint("shop/", i)
	}
	digest := func(uint64) string { return "" }
	late := stillBehind(many, nil)
	if r := reportOf(many, 9, digest); r.Behind != "" {
		t.Errorf("who was in step a moment ago is behind: %s", r.Behind)
	}
	for i := range many {
		many[i].Current = false
	}
	stillBehind(many, late)
	reports := []proxyReport{{Proxies: 3}, {Proxies: 2, Behind: "shop/x,shop/y"}}
	s.reports.Store(&reports)
	if ids, all := s.behind(); len(ids) != 2 || !all || s.count() != 2 {
		t.Errorf("%v %v", ids, all)
	}
	reports = append(reports, reportOf(many, 9, digest))
	if ids, all := s.behind(); len(ids) != behindTold+2 || all {
		t.Errorf("%d are behind, all of them: %v", len(ids), all)
	}
}
