package mesh

import (
	"strings"
	"testing"
)

func TestHostMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, host string
		want          bool
	}{
		{"a.com", "a.com", true}, {"a.com", "b.com", false}, {"*.a.com", "x.a.com", true}, {"*.a.com", "a.com", false},
		{"*.a.com", "x.y.a.com", true}, {"*", "a.com", true}, {"*.com", "*.a.com", true}, {"*.a.com", "*.com", false}, {"*.a.com", ".a.com", true},
	} {
		if got := HostMatches(tt.pattern, tt.host); got != tt.want {
			t.Errorf("%s covers %s: %v", tt.pattern, tt.host, got)
		}
	}
}

func TestVirtualServicesOf(t *testing.T) {
	vs := func(name string, hosts ...string) *VirtualService {
		return &VirtualService{Ref: Ref{Name: name}, Hosts: hosts}
	}
	s := New(1, Parts{VirtualServices: []*VirtualService{
		vs("a", "*.com"), vs("b", "x.a.com", "*.a.com"), vs("c", "x.a.com"), vs("d", "*.a.com"), vs("e", "*.b.com"),
	}})
	ask := func(stop int) string {
		var out []string
		s.VirtualServicesOf("x.a.com", func(pattern string, list []*VirtualService) bool {
			text := pattern + "="
			for _, v := range list {
				text += v.Name
			}
			out = append(out, text)
			return len(out) < stop
		})
		return strings.Join(out, " ")
	}
	if got := ask(9); got != "x.a.com=bc *.a.com=bd *.com=a" {
		t.Error(got)
	}
	if got := ask(1); got != "x.a.com=bc" {
		t.Error(got)
	}
	if got := ask(2); got != "x.a.com=bc *.a.com=bd" {
		t.Error(got)
	}
}
