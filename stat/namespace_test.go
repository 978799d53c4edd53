package stat

import (
	"strings"
	"testing"
)

// A service of nobody's namespace (a route to a subset that nobody defines) does
// not make the others need theirs.
func TestTextUnknownNamespace(t *testing.T) {
	table := &Table{Services: []Service{
		{Namespace: "default", Name: "billing-service", Version: "v1"},
		{Namespace: "unknown", Name: "PassthroughCluster", Version: "unknown"},
	}}
	var b strings.Builder
	if err := table.WriteText(&b, TextOptions{}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(b.String(), "\n"); !strings.HasPrefix(lines[1], "billing-service ") || !strings.HasPrefix(lines[2], "PassthroughCluster ") {
		t.Errorf("%s", b.String())
	}
}
