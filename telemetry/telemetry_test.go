package telemetry

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

var update = flag.Bool("update", false, "write the table of README.md")

func TestFlags(t *testing.T) {
	seen := map[string]bool{}
	for f := range NumFlags {
		s := f.String()
		if s == "" || seen[s] {
			t.Errorf("flag %d has the letters %q", f, s)
		}
		seen[s] = true
		if (f.Meaning() == "") != (f == FlagNone) || f != FlagNone && !strings.HasSuffix(f.Meaning(), ".") {
			t.Errorf("%s means %q", s, f.Meaning())
		}
	}
	if Flag(200).String() != "-" || Flag(200).Meaning() != "" {
		t.Error("a flag that does not exist is not the empty one")
	}
}

func TestLabels(t *testing.T) {
	w := &seinev1.Workload{Namespace: "n", Workload: "w", Identity: "spiffe://td/ns/n/sa/w"}
	get := func(l RequestLabels) map[string]string {
		m := map[string]string{}
		l.EachLabel(func(n, v string) {
			if _, twice := m[n]; twice || v == "" {
				t.Errorf("label %s: empty or given twice", n)
			}
			m[n] = v
		})
		return m
	}
	for _, c := range []struct {
		l    RequestLabels
		name string
		want string
	}{
		{RequestLabels{}, LabelReporter, "source"},
		{RequestLabels{Reporter: Destination}, LabelReporter, "destination"},
		{RequestLabels{}, LabelSecurityPolicy, "unknown"},
		{RequestLabels{Security: SecurityNone}, LabelSecurityPolicy, "none"},
		{RequestLabels{Security: SecurityMutualTLS}, LabelSecurityPolicy, "mutual_tls"},
		{RequestLabels{Source: w}, LabelSourcePrincipal, w.Identity},
		{RequestLabels{Source: w, Plaintext: true}, LabelSourcePrincipal, "unknown"},
		{RequestLabels{Source: w, Security: SecurityNone}, LabelSourcePrincipal, "unknown"},
		{RequestLabels{Source: w}, LabelSourceCanonicalRevision, "latest"},
		{RequestLabels{}, LabelSourceCanonicalRevision, "unknown"},
		{RequestLabels{}, LabelDestinationWorkload, "unknown"},
	} {
		if got := get(c.l)[c.name]; got != c.want {
			t.Errorf("%+v: %s = %q, want %q", c.l, c.name, got, c.want)
		}
	}
}

// TestReadme holds the table of flags in README.md to the code.
func TestReadme(t *testing.T) {
	const path, begin, end = "README.md", "<!-- flags -->\n", "<!-- /flags -->"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	i, j := strings.Index(text, begin), strings.Index(text, end)
	if i < 0 || j < i {
		t.Fatalf("%s has no place for the table", path)
	}
	var table strings.Builder
	table.WriteString("| flag | meaning |\n| --- | --- |\n")
	for f := FlagNone + 1; f < NumFlags; f++ {
		fmt.Fprintf(&table, "| `%s` | %s |\n", f, f.Meaning())
	}
	want := text[:i+len(begin)] + table.String() + text[j:]
	if want == text {
		return
	}
	if !*update {
		t.Fatal("the table of flags is out of date; run with -update")
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
