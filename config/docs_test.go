package config

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var codeLine = regexp.MustCompile(`(?m)^\tcode\w+\s+= "(SEINE\d{4})" // (.*)$`)

// docs/analyze.md lists every code, with the words of its declaration.
func TestCodesAreDocumented(t *testing.T) {
	source, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| code | says | Istio |\n| --- | --- | --- |\n")
	seen := map[string]bool{}
	for _, m := range codeLine.FindAllStringSubmatch(string(source), -1) {
		if seen[m[1]] {
			t.Errorf("%s is given twice", m[1])
		}
		seen[m[1]] = true
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m[1], m[2], istioCodes[m[1]])
	}
	if n := strings.Count(string(source), `"SEINE`); n != len(seen) {
		t.Errorf("%d codes have words, of %d", len(seen), n)
	}
	const file, from, to = "../docs/analyze.md", "<!-- codes -->\n", "<!-- /codes -->"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), from)
	_, after, ok := strings.Cut(rest, to)
	if !ok {
		t.Fatalf("%s has no place for the codes", file)
	}
	want := before + from + b.String() + to + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(page) {
		t.Errorf("%s is behind: run with -update", file)
	}
}
