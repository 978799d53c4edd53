package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/telemetry"
)

// maxNotes bounds the lines below a table.
const maxNotes = 5

// writeSlow writes a line for each service that is slower than usual. A control
// plane that cannot say leaves the table as it is: seine diagnose tells why.
func writeSlow(ctx context.Context, b *strings.Builder, client *http.Client, base string, o stat.TextOptions) {
	body, err := get(ctx, client, base+"/api/v1/diagnose")
	if err != nil {
		return
	}
	var r struct {
		Diagnoses []diagnose.Diagnosis `json:"diagnoses"`
	}
	if json.Unmarshal(body, &r) != nil {
		return
	}
	for i, d := range r.Diagnoses {
		if i == maxNotes {
			stat.NoteLine(b, "slower than usual:", "and more (seine diagnose)", o)
			return
		}
		what := strings.TrimSuffix(d.Service, ".svc.cluster.local")
		if d.Version != "" && d.Version != telemetry.Unknown {
			what += " " + d.Version
		}
		if d.Caller != "" {
			what = d.Caller + " → " + what
		}
		stat.NoteLine(b, "slower than usual:", what+": "+strings.TrimSuffix(d.Explanation, ".")+" (seine diagnose)", o)
	}
}
