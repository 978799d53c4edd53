package stat

import (
	"os"
	"strings"
	"testing"
)

func TestWriteEdges(t *testing.T) {
	table := story(t)
	table.Edges = append(table.Edges, Edge{Source: Party{Namespace: "unknown", Workload: "unknown"},
		Destination: Party{Namespace: "default", Workload: "frontend"}, MTLS: MTLSNo})
	for name, o := range map[string]TextOptions{"edges": {}, "edges-color": {Color: true}} {
		var text strings.Builder
		if err := table.WriteEdges(&text, o); err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".txt"
		if *update {
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || text.String() != string(want) {
			t.Errorf("%s: %v\n%s", name, err, text.String())
		}
	}
}
