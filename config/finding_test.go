package config

import (
	"bytes"
	"strings"
	"testing"
)

// The YAML library counts a parser's lines from 0 and a scanner's from 1.
func TestSyntaxErrorLines(t *testing.T) {
	for _, c := range []struct {
		name, data string
		line       int
	}{
		{"parser", "apiVersion: v1\nkind: Service\nmetadata: {name: x\nspec: {}\n", 3},
		{"parser, begun in the first line", "{a: b\nc: {}\n", 2},
		{"parser, all in one line", "{a: b c: {", 1},
		{"parser, a key", "a:\n- b\nc\n  - d: e\n f: g\n", 3},
		{"scanner", "apiVersion: v1\nmetadata:\n\tname: x\n", 3},
		{"scanner, a value", "a: b\nc: d: e\n", 2},
	} {
		r := Build([]File{{Name: "a.yaml", Data: []byte(c.data)}}, Options{})
		if len(r.Findings) != 1 || r.Findings[0].Line != c.line {
			t.Errorf("%s: %v, want line %d", c.name, r.Findings, c.line)
		}
	}
}

// What is not known of a resource leaves no gap in the text.
func TestFindingWithoutName(t *testing.T) {
	for _, data := range []string{"kind: Service\napiVersion: v1\nspec: {ports: [{port: 1}]}\n", "foo: bar\n", "[]\n"} {
		r := Build([]File{{Name: "a.yaml", Data: []byte(data)}}, Options{})
		var b bytes.Buffer
		if err := NewReport(r).WriteText(&b, TextOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(b.String(), "\n") {
			if strings.TrimRight(line, " ") != line || strings.Contains(strings.TrimLeft(line, " "), "  ") || strings.Contains(line, "/ ") {
				t.Errorf("%q", line)
			}
		}
	}
}
