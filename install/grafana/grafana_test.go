package grafana

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the dashboards")

func TestFiles(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range All() {
		got, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(d.UID, "seine-") + ".json"
		if seen[name] {
			t.Errorf("two dashboards are %s", d.UID)
		}
		seen[name] = true
		if *update {
			if err := os.WriteFile(name, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not as its source says: go test ./install/grafana -update", name)
		}
	}
}

// Panels lie side by side and one below the other, never on one another.
func TestLayout(t *testing.T) {
	for _, d := range All() {
		text, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Panels []struct {
				Title   string
				GridPos struct{ X, Y, W, H int }
			}
		}
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatal(err)
		}
		for i, a := range page.Panels {
			p := a.GridPos
			if p.X < 0 || p.X+p.W > 24 {
				t.Errorf("%s: %s is wider than the page", d.Title, a.Title)
			}
			for _, b := range page.Panels[:i] {
				q := b.GridPos
				if p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H {
					t.Errorf("%s: %s lies on %s", d.Title, a.Title, b.Title)
				}
			}
		}
	}
}

// No variable of Grafana's is left in what Exprs gives.
func TestExprs(t *testing.T) {
	for _, d := range All() {
		n := 0
		d.Exprs(func(panel string, q Query) {
			n++
			if strings.Contains(q.Expr, "$") {
				t.Errorf("%s, %s: %s", d.Title, panel, q.Expr)
			}
		})
		if n == 0 {
			t.Errorf("%s asks nothing", d.Title)
		}
	}
}
