package message

import (
	"strings"
	"testing"
)

func TestInternFindsEveryName(t *testing.T) {
	for n := Other + 1; n < names; n++ {
		s := n.String()
		if s == "" || s != strings.ToLower(s) {
			t.Errorf("name %d is %q: want lower case", n, s)
		}
		for _, v := range []string{s, strings.ToUpper(s), strings.ToUpper(s[:1]) + s[1:]} {
			if got := Intern([]byte(v)); got != n {
				t.Errorf("Intern(%q) = %v, want %v; two names of one length and first letter need another table", v, got, n)
			}
		}
		for _, v := range []string{s + "x", s[1:], s[:len(s)-1] + "\r", strings.ReplaceAll(s, "-", "\r")} {
			if got := Intern([]byte(v)); got != Other && got.String() != v {
				t.Errorf("Intern(%q) = %v, want Other", v, got)
			}
		}
	}
	if Intern(nil) != Other || Intern([]byte(strings.Repeat("x", 300))) != Other {
		t.Error("an empty or long name is Other")
	}
}

func TestSet(t *testing.T) {
	s := SetOf(Host, TraceParent)
	if !s.Has(Host) || !s.Has(TraceParent) || s.Has(Other) || s.Has(Date) || Set(0).Has(Host) {
		t.Errorf("set %b", s)
	}
	if names > 64 {
		t.Errorf("%d names do not fit into a Set", names)
	}
}

func TestEqualFold(t *testing.T) {
	for _, c := range []struct {
		name, lower string
		want        bool
	}{
		{"Host", "host", true}, {"HOST", "host", true}, {"host", "hosts", false}, {"", "", true},
		{"X\rA", "x-a", false}, {"@", "`", false}, {"[", "{", false}, {"x_a", "x_a", true},
	} {
		if got := EqualFold([]byte(c.name), c.lower); got != c.want {
			t.Errorf("EqualFold(%q, %q) = %v", c.name, c.lower, got)
		}
	}
}

func TestGetAndLookup(t *testing.T) {
	f := []Field{
		{Name: []byte("X-A"), Value: []byte("1")},
		{ID: Host, Name: []byte("HOST"), Value: []byte("h")},
		{Name: []byte("x-a"), Value: []byte("2")},
	}
	if v, ok := Get(f, Host); !ok || string(v) != "h" {
		t.Errorf("Get(Host) = %q, %v", v, ok)
	}
	if v, ok := Lookup(f, "x-a"); !ok || string(v) != "1" {
		t.Errorf("Lookup(x-a) = %q, %v", v, ok)
	}
	if _, ok := Get(f, Date); ok {
		t.Error("Get(Date) found one")
	}
	if _, ok := Lookup(f, "x-b"); ok {
		t.Error("Lookup(x-b) found one")
	}
}

// FuzzText holds the eight-at-a-time scan to the plain one.
func FuzzText(f *testing.F) {
	f.Add([]byte("hello, world\r\n"))
	f.Add([]byte("\x7f\x1f 12345678\t\x00\xff\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := 0
		for want < len(b) && b[want] >= 0x20 && b[want] != 0x7f {
			want++
		}
		if got := Text(b); got != want {
			t.Fatalf("Text(%q) = %d, want %d", b, got, want)
		}
		valid := strings.Trim(string(b), " \t") == string(b)
		for _, c := range b {
			valid = valid && (c >= 0x20 && c != 0x7f || c == '\t')
		}
		if got := ValidValue(b); got != valid {
			t.Fatalf("ValidValue(%q) = %v", b, got)
		}
	})
}

func TestSyntaxTables(t *testing.T) {
	const token = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for c := range 256 {
		if Token[c] != (strings.IndexByte(token, byte(c)) >= 0) {
			t.Errorf("Token[%q] = %v", byte(c), Token[c])
		}
	}
	for s, want := range map[string]bool{"": false, "a": true, "a b": false, "a:": false, "x-a": true} {
		if ValidName([]byte(s)) != want {
			t.Errorf("ValidName(%q) = %v", s, !want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	b := []byte("X-Forwarded-Client-Cert")
	if n := testing.AllocsPerRun(100, func() {
		Intern(b)
		ValidName(b)
		ValidValue(b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
