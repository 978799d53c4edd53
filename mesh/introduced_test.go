package mesh

import (
	"fmt"
	"testing"
)

func TestParseIntroduced(t *testing.T) {
	for _, c := range []struct{ ports, from, want string }{
		{"", "", "<nil>"},
		{"8080", "", "[8080] []"},
		{" 8080, 8443 ", "10.1.2.3/8, 192.0.2.1,2001:db8::/32", "[8080 8443] [10.0.0.0/8 192.0.2.1/32 2001:db8::/32]"},
		{"", "10.0.0.0/8", "error"},
		{"0", "", "error"},
		{"65536", "", "error"},
		{"8080,", "", "error"},
		{"http", "", "error"},
		{"8080", "example.com", "error"},
		{"8080", "10.0.0.0/8,", "error"},
	} {
		got := "<nil>"
		if i, err := ParseIntroduced(c.ports, c.from); err != nil {
			got = "error"
		} else if i != nil {
			got = fmt.Sprint(i.Ports, " ", i.From)
		}
		if got != c.want {
			t.Errorf("%q %q: %s, want %s", c.ports, c.from, got, c.want)
		}
	}
}
