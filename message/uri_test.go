package message

import "testing"

func TestAuthority(t *testing.T) {
	for _, c := range []struct {
		in   string
		port int
		ok   bool
	}{
		{"billing", 0, true}, {"billing:8080", 8080, true}, {"[::1]:80", 80, true}, {"[::1]", 0, true}, {"a%20b", 0, true},
		{"", 0, false}, {":80", 0, false}, {"a:", 0, false}, {"a:080", 0, false}, {"a:65536", 0, false}, {"a:b", 0, false},
		{"u@a", 0, false}, {"[::1", 0, false}, {"[fe80::1%25eth0]", 0, false}, {"[v1.x]", 0, false}, {"a b", 0, false}, {"a%2", 0, false},
	} {
		if port, ok := Authority([]byte(c.in)); ok != c.ok || ok && port != c.port {
			t.Errorf("Authority(%q) = %d, %v", c.in, port, ok)
		}
	}
}

func TestPathAndTarget(t *testing.T) {
	for in, want := range map[string]int{
		"/": -1, "/a/b?c d": -1, "/%20": -1, "/[x]|": -1, "/%2": 1, "/%zz": 1, "/a b": 2, "/a{": 2, "/a#b": 2, "/\x80": 1,
	} {
		if got := Path([]byte(in)); got != want {
			t.Errorf("Path(%q) = %d, want %d", in, got, want)
		}
	}
	for in, want := range map[string]bool{"": false, "/?{}|^\"": true, "/#": false, "/ ": false, "/\x7f": false, "/\x80": false} {
		if got := ValidTarget([]byte(in)); got != want {
			t.Errorf("ValidTarget(%q) = %v", in, got)
		}
	}
}
