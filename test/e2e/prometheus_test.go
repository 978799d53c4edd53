//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/seinemesh/seine/install/grafana"
	"github.com/seinemesh/seine/view"
)

// TestPrometheus has a real Prometheus scrape the demo as docs/metrics.md says,
// and asks it what the dashboards ask: no panel may be empty.
func TestPrometheus(t *testing.T) {
	for _, program := range []string{"prometheus", "promtool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("there is no %s: test/deps.sh installs it", program)
		}
	}
	out, err := exec.Command("promtool", "test", "rules", "../../install/prometheus/rules_test.yaml").CombinedOutput()
	if err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}

	web := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	m := start(t, users()[0], nil, "--web", web)
	p := newPrometheus(t, web)
	m.await("every target to be scraped", func() error { return p.scraped() })

	t.Run("no panel is empty", func(t *testing.T) {
		m := m.in(t)
		for _, d := range grafana.All() {
			d.Exprs(func(panel string, q grafana.Query) {
				if q.Quiet { // it must parse
					if _, err := p.query(q.Expr); err != nil {
						t.Errorf("%s, %s: %v", d.Title, panel, err)
					}
					return
				}
				m.await(d.Title+", "+panel, func() error { return p.some(q.Expr) })
			})
		}
	})
	t.Run("dashboards made for Istio find their series", func(t *testing.T) {
		m := m.in(t)
		text, err := os.ReadFile("testdata/queries.txt")
		must(t, err)
		for q := range strings.Lines(string(text)) {
			if q = strings.TrimSpace(q); q != "" && !strings.HasPrefix(q, "#") {
				m.await(q, func() error { return p.some(q) })
			}
		}
	})
	t.Run("rules are counted by themselves", func(t *testing.T) {
		m := m.in(t)
		const rule = `seine_route_duration_seconds_count{route="VirtualService default/billing-route[0]",destination_port="8080",classification="success"}`
		m.await(rule, func() error { return p.some(rule + " > 0") })
		m.await("the API to show it", func() error {
			var all view.Routes
			if err := m.get("/api/v1/routes", &all); err != nil {
				return err
			}
			for _, r := range all.Routes {
				if r.ID == "VirtualService default/billing-route[0]" && r.Traffic != nil && r.RPS > 0 && r.Success != nil && r.Latency != nil && r.Latency.P99 > 0 {
					return nil
				}
			}
			return fmt.Errorf("%+v", all)
		})
	})
	t.Run("no label of a sum is empty", func(t *testing.T) {
		series, err := p.query("istio_requests_total")
		must(t, err)
		for _, s := range series {
			for name, value := range s.Metric {
				// Prometheus knows no empty label: it would not be here.
				if value == "" {
					t.Errorf("%s is empty in %v", name, s.Metric)
				}
			}
			for _, name := range []string{"source_workload", "destination_service", "destination_canonical_revision", "request_protocol", "response_flags", "connection_security_policy", "source_cluster", "destination_cluster"} {
				if s.Metric[name] == "" {
					t.Errorf("no label %s in %v", name, s.Metric)
				}
			}
		}
	})
	m.interrupt()
}

// prometheus is a real one.
type prometheus struct{ base string }

// newPrometheus starts one that finds its targets where docs/metrics.md says.
func newPrometheus(t *testing.T, web string) *prometheus {
	rules, err := filepath.Abs("../../install/prometheus/rules.yaml")
	must(t, err)
	return runPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: ["%s"]
scrape_configs:
- job_name: seine
  http_sd_configs: [{url: "http://%s/api/v1/sd", refresh_interval: 1s}]
`, rules, web))
}

// runPrometheus starts one with this configuration, for as long as the test runs.
func runPrometheus(t *testing.T, config string, flags ...string) *prometheus {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o644))
	at := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	said := &tail{}
	cmd := exec.Command("prometheus", append([]string{"--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", at, "--log.level", "warn"}, flags...)...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus said:\n%s", said)
		}
	})
	return &prometheus{"http://" + at}
}

func (p *prometheus) get(path string, query url.Values, into any) error {
	res, err := http.Get(p.base + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, res.Status, body.Bytes())
	}
	return json.Unmarshal(body.Bytes(), &struct {
		Data any `json:"data"`
	}{into})
}

// scraped is nil once every target of seine's is up.
func (p *prometheus) scraped() error {
	var data struct {
		ActiveTargets []struct {
			Labels    map[string]string
			Health    string
			LastError string
		}
	}
	if err := p.get("/api/v1/targets", nil, &data); err != nil {
		return err
	}
	if n := len(data.ActiveTargets); n != 8 { // seined, six sidecars and the gateway
		return fmt.Errorf("%d targets", n)
	}
	for _, a := range data.ActiveTargets {
		if a.Health != "up" {
			return fmt.Errorf("%v is %s: %s", a.Labels, a.Health, a.LastError)
		}
	}
	return nil
}

type sample struct {
	Metric map[string]string
	Value  [2]any
}

// query is the result of an expression now.
func (p *prometheus) query(expr string) ([]sample, error) {
	var data struct{ Result []sample }
	if err := p.get("/api/v1/query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	return data.Result, nil
}

// some is nil if an expression has a value that is a number.
func (p *prometheus) some(expr string) error {
	result, err := p.query(expr)
	if err != nil {
		return err
	}
	for _, s := range result {
		if s.Value[1] != "NaN" {
			return nil
		}
	}
	return fmt.Errorf("%s: %d results, none a number", expr, len(result))
}
