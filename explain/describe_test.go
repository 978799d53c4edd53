package explain

import (
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// A match names its callers, in the same words each time.
func TestDescribeCallers(t *testing.T) {
	m := &seinev1.HttpMatch{SourceLabels: map[string]string{"b": "2", "a": "1", "c": "3"}, SourceNamespace: "shop"}
	for range 20 {
		if got := Describe(m); got != "caller a=1, caller b=2, caller c=3, caller in namespace shop" {
			t.Fatal(got)
		}
	}
}
