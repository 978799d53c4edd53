package cluster

import (
	"encoding/json"
	"testing"
)

func TestProgress(t *testing.T) {
	for name, tc := range map[string]struct {
		status      string
		known, done bool
		message     string
	}{
		"none":                 {`{}`, false, false, ""},
		"true":                 {`{"conditions":[{"type":"Programmed","status":"True","observedGeneration":3,"message":"m"}]}`, true, true, "m"},
		"as text":              {`{"conditions":[{"type":"Programmed","status":"True","observedGeneration":"3"}]}`, true, true, ""},
		"old":                  {`{"conditions":[{"type":"Programmed","status":"True","observedGeneration":2}]}`, true, false, ""},
		"false":                {`{"conditions":[{"type":"Programmed","status":"False","observedGeneration":3,"message":"m"}]}`, true, false, "m"},
		"all parents":          {`{"parents":[{"conditions":[{"type":"Programmed","status":"True","observedGeneration":3}]},{"conditions":[{"type":"programmed","status":"True","observedGeneration":3}]}]}`, true, true, ""},
		"one parent refuses":   {`{"parents":[{"conditions":[{"type":"Programmed","status":"True","observedGeneration":3}]},{"conditions":[{"type":"Programmed","status":"False","observedGeneration":3,"message":"no"}]}]}`, true, false, "no"},
		"one parent is behind": {`{"parents":[{"conditions":[{"type":"Programmed","status":"True","observedGeneration":3}]},{"conditions":[{"type":"Programmed","status":"True","observedGeneration":2}]}]}`, true, false, ""},
	} {
		var o map[string]any
		if err := json.Unmarshal([]byte(`{"metadata":{"generation":3},"status":`+tc.status+`}`), &o); err != nil {
			t.Fatal(err)
		}
		p, err := progress(o, "programmed")
		if err != nil || p.Known != tc.known || p.Done() != tc.done || p.Message != tc.message {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
}
