package prometheus

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seinemesh/seine/history"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Unix(1_800_000_000, 0)

// fake answers each query with two points, and checks what is asked.
func fake(t *testing.T) *Client {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		start, _ := strconv.ParseInt(r.FormValue("start"), 10, 64)
		step, _ := strconv.ParseInt(r.FormValue("step"), 10, 64)
		end, _ := strconv.ParseInt(r.FormValue("end"), 10, 64)
		if r.URL.Path != "/prefix/api/v1/query_range" || (end-start)/step+1 > 11_000 || end > now.Unix() {
			t.Errorf("asked %s %v", r.URL, r.Form)
		}
		value := 0.004
		switch {
		case strings.Contains(query, "5.."):
			value = 1
		case !strings.Contains(query, "histogram_quantile"):
			value = 10
		}
		metrics := []string{`{}`}
		if strings.Contains(query, "destination_version)") {
			metrics = []string{`{"destination_version":"v1"}`, `{"destination_version":"v2"}`}
		}
		var lines []string
		for _, m := range metrics {
			lines = append(lines, fmt.Sprintf(`{"metric":%s,"values":[[%d,"%g"],[%d,"NaN"],[%d,"%g"]]}`, m, start, value, start+step, end, value))
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, strings.Join(lines, ","))
	}))
	t.Cleanup(s.Close)
	c, err := New(s.URL + "/prefix/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRead(t *testing.T) {
	c := fake(t)
	for k, lines := range map[history.Key]int{
		{Kind: history.Mesh}:                                             1,
		{Kind: history.Service, Subject: "a.shop"}:                       3,
		{Kind: history.WorkloadIn, Subject: "shop/a"}:                    1,
		{Kind: history.WorkloadOut, Subject: "shop/a"}:                   1,
		{Kind: history.Edge, Subject: "shop/a", Service: "b.shop"}:       3,
		{Kind: history.Edge, Subject: "outside", Service: `b"shop\evil`}: 3,
	} {
		r, err := c.Read(t.Context(), k, now, 7*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Series) != lines || r.Points != 360 || r.Step != 28*time.Minute || r.Series[0].Version != "" {
			t.Errorf("%+v: %d lines, %d points of %s", k, len(r.Series), r.Points, r.Step)
		}
		for _, l := range r.Series {
			if l.RPS[0] != 10 || l.Success[0] != 0.9 || l.P99[0] != 4 || !math.IsNaN(l.RPS[1]) || !math.IsNaN(l.Success[1]) || l.P50[359] != 4 || len(l.P90) != 360 {
				t.Errorf("%+v %q: rps %g, success %g, p99 %g", k, l.Version, l.RPS[0], l.Success[0], l.P99[0])
			}
		}
	}
}

// TestQueries: Prometheus' own parser reads what is asked, whatever the names.
func TestQueries(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (test/deps.sh installs it)")
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: queries\n  rules:\n")
	for _, k := range []history.Key{{Kind: history.Mesh}, {Kind: history.WorkloadIn, Subject: "shop/a"}, {Kind: history.WorkloadOut, Subject: "shop/a"},
		{Kind: history.Service, Subject: "a.shop"}, {Kind: history.Edge, Subject: "shop/a", Service: "b.shop"}, {Kind: history.Edge, Subject: "outside", Service: `b"\n\evil{}`}} {
		for _, by := range []string{"", "destination_version"} {
			for i, q := range queries(k, time.Minute, by) {
				fmt.Fprintf(&rules, "  - record: q:%d:%s:%d\n    expr: %q\n", k.Kind, by, i, q)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, rules.String())
	}
}

func TestAway(t *testing.T) {
	for name, answer := range map[string]string{"no JSON": "<html>", "an error": `{"status":"error","error":"too many"}`, "no matrix": `{"status":"success","data":{"resultType":"vector"}}`,
		"no point": `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[["x",1]]}]}}`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		c, _ := New(s.URL)
		if _, err := c.Read(t.Context(), history.Key{}, now, 24*time.Hour); err == nil {
			t.Errorf("%s: no error", name)
		}
		c.Close()
		s.Close()
		if _, err := c.Read(t.Context(), history.Key{}, now, 24*time.Hour); err == nil {
			t.Errorf("%s: gone, and no error", name)
		}
	}
	for _, bad := range []string{"", "prometheus:9090", "ftp://a", "http://user:secret@a", "http://a?x=y"} {
		if _, err := New(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"v":"a"},"values":[[1800000000,"1"]]}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := &history.Range{Start: now, Step: time.Minute, Points: 5}
		got, err := parse(body, "200 OK", "v", r)
		for _, column := range got {
			if err != nil || len(column) != r.Points {
				t.Errorf("%v %v", got, err)
			}
		}
	})
}
