package local

import (
	"bytes"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config"
)

// What a saved file makes wrong without being refused is told once: when it
// begins.
func TestTell(t *testing.T) {
	var out bytes.Buffer
	r := &runner{print: newPrinter(&out, false)}
	note := config.Finding{Code: "SEINE0108", Severity: config.Info, Message: "a note"}
	subset := config.Finding{Code: "SEINE0102", Severity: config.Error, Message: "the subset v3 is not defined"}
	weights := config.Finding{Code: "SEINE0201", Severity: config.Warning, Message: "the weights add up to 110"}
	told := r.tell(config.Findings{note, weights}, map[string]bool{weights.String(): true})
	told = r.tell(config.Findings{note, subset, weights}, told)
	told = r.tell(config.Findings{subset, weights}, told)
	told = r.tell(nil, told)
	var many config.Findings
	for i := range maxTold + 3 {
		many = append(many, config.Finding{Severity: config.Error, Line: i + 1, File: "a", Message: "wrong"})
	}
	r.tell(many, told)
	r.print.close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1+maxTold+1 || lines[0] != subset.String() || lines[len(lines)-1] != "(and 3 more: see seine analyze)" {
		t.Errorf("%q", lines)
	}
}
