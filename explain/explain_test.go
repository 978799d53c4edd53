package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

var update = flag.Bool("update", false, "write the golden files")

func load(t testing.TB, dir, meshConfig string) *mesh.Snapshot {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", dir, "*.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatal(dir, err)
	}
	read := func(name string) config.File {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return config.File{Name: filepath.Base(name), Data: data}
	}
	var files []config.File
	for _, n := range names {
		files = append(files, read(n))
	}
	opt := config.Options{LocalInstances: true}
	if meshConfig != "" {
		f := read(filepath.Join("testdata", meshConfig))
		opt.MeshConfig = &f
	}
	r := config.Build(files, opt)
	if err := r.Findings.Err(); err != nil {
		t.Fatal(err)
	}
	return r.Snapshot
}

var goldens = []struct {
	name       string
	dir        string // shop if empty
	meshConfig string
	q          Question
}{
	{name: "items", q: Question{URL: "http://catalog:8080/items"}},
	{name: "testers", q: Question{URL: "http://catalog:8080/beta", Headers: []string{"X-User: tester"}}},
	{name: "testers-by-label", q: Question{From: "default,team=red", URL: "http://catalog:8080/items"}},
	{name: "redirect", q: Question{URL: "http://catalog:8080/old/x?q=1"}},
	{name: "respond", q: Question{URL: "http://catalog:8080/teapot"}},
	{name: "retries", q: Question{URL: "http://catalog:8080/retried"}},
	{name: "rewrite", q: Question{Method: "HEAD", URL: "http://catalog:8080/api/x?v=1", Headers: []string{"x-secret: s", "accept: a", "Accept: b"}}},
	{name: "no-route", q: Question{Method: "POST", URL: "http://catalog:8080/api/x?v=2"}},
	{name: "gone", q: Question{URL: "http://catalog:8080/gone"}},
	{name: "no-subset", q: Question{URL: "http://catalog:8080/nosubset"}},
	{name: "canary-half-down", q: Question{URL: "http://catalog:8080/canary"}},
	{name: "other-port", q: Question{URL: "http://catalog:1234/items"}},
	{name: "grpc", q: Question{URL: "grpc://catalog:9090/items.Items/Get"}},
	{name: "plaintext-to-strict", q: Question{URL: "http://orders/"}},
	{name: "no-sidecar", q: Question{URL: "http://legacy/"}},
	{name: "from-no-sidecar", q: Question{From: "default/legacy", URL: "http://catalog:8080/teapot"}},
	{name: "no-endpoints", q: Question{URL: "http://empty/"}},
	{name: "external", q: Question{URL: "http://payments.example.com/pay"}},
	{name: "outside", q: Question{URL: "http://www.example.org/"}},
	{name: "outside-address", q: Question{URL: "tcp://db.example.org:5432", Address: "203.0.113.9:5432"}},
	{name: "registry-only", meshConfig: "registry-only.yaml", q: Question{URL: "http://www.example.org/"}},
	{name: "no-service", q: Question{URL: "http://nothing.default.svc.cluster.local/"}},
	{name: "unknown-address", q: Question{URL: "tcp://10.96.77.7:7000"}},
	{name: "outside-host-mesh-address", q: Question{URL: "http://www.example.org:8080/", Address: "10.96.0.1:8080"}},
	{name: "host-header", q: Question{URL: "http://10.96.0.2:8080/items", Headers: []string{"Host: catalog:8080"}}},
	{name: "pod", q: Question{URL: "http://10.244.0.11:8080/x"}},
	{name: "tcp", q: Question{URL: "tcp://ledger:7000"}},
	{name: "tls-to-tcp", q: Question{URL: "tls://ledger:7000", SNI: "ledger"}},
	{name: "tls-name", q: Question{URL: "https://secure/", SNI: "Secure.example.com"}},
	{name: "tls-wildcard", q: Question{URL: "https://secure/", SNI: "other.example.com"}},
	{name: "tls-other-name", q: Question{URL: "https://secure/"}},
	{name: "tls-outside", q: Question{URL: "https://api.partner.example/"}},
	{name: "tls-outside-wildcard", q: Question{URL: "tls://eu.partner.example:443", Address: "203.0.113.7:443"}},
	{name: "tls-outside-unknown", q: Question{URL: "tls://example.net:443", Address: "203.0.113.7:443"}},
	{name: "http-to-tcp", q: Question{URL: "http://ledger:7000/"}},
	{name: "tcp-to-http", q: Question{URL: "tcp://catalog:8080"}},
	{name: "gateway", q: Question{From: "gateway:edge,app=gateway", URL: "http://catalog:8080/items"}},
	{name: "no-workloads", dir: "bare", q: Question{From: "default,app=frontend", URL: "http://billing-service:8080/"}},
	{name: "route-split", dir: "gateway", q: Question{From: "default", URL: "http://echo/v1/x"}},
	{name: "route-any-host", dir: "gateway", q: Question{From: "default", URL: "http://echo/v2/x", Headers: []string{"Host: www.example.com", "canary: yes"}}},
	{name: "route-unmatched", dir: "gateway", q: Question{From: "default", URL: "http://echo/v2x", Headers: []string{"canary: yes"}}},
	{name: "route-redirect", dir: "gateway", q: Question{From: "default", URL: "http://echo/old?q=1"}},
	{name: "route-no-backend", dir: "gateway", q: Question{From: "default", URL: "http://echo/none"}},
	{name: "route-other-address", dir: "gateway", q: Question{From: "default", URL: "http://echo-v1/v1", Headers: []string{"Host: echo"}}},
	{name: "route-pod", dir: "gateway", q: Question{From: "default", URL: "http://10.244.0.2:8080/v1"}},
	{name: "route-grpc", dir: "gateway", q: Question{From: "default", URL: "grpc://echo:7070/echo.Echo/Say"}},
	{name: "route-consumer", dir: "gateway", q: Question{From: "client", URL: "http://echo.default/anything"}},
	{name: "in-strict-plaintext", q: Question{To: "default/catalog-v1-1:8080"}},
	{name: "in-strict-from", q: Question{To: "default/catalog-v1:8080", From: "default/web"}},
	{name: "in-permissive", q: Question{To: "default/ledger:7000", URL: "tcp://ledger:7000"}},
	{name: "in-disabled", q: Question{To: "default,app=ledger:7001", From: "default/web"}},
	{name: "in-described", q: Question{To: "default,app=catalog:8080", Principal: "cluster.local/ns/default/sa/web", Claims: json.RawMessage(`{"sub":"x"}`)}},
	{name: "in-foreign", q: Question{To: "default/catalog-v1:8080", Principal: "spiffe://elsewhere/ns/default/sa/web"}},
	{name: "in-no-sidecar", q: Question{To: "default/legacy:80"}},
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			if g.dir == "" {
				g.dir = "shop"
			}
			if g.q.From == "" && g.q.To == "" {
				g.q.From = "default/web"
			}
			s := load(t, g.dir, g.meshConfig)
			a, err := Explain(s, g.q)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Explain(s, g.q)
			if err != nil || cmp.Diff(a, again) != "" {
				t.Errorf("the same question has another answer: %v %s", err, cmp.Diff(a, again))
			}
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetIndent("", "  ")
			enc.SetEscapeHTML(false)
			if err := enc.Encode(a); err != nil {
				t.Fatal(err)
			}
			b.WriteString("\n")
			if err := a.WriteText(&b, false); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "golden", g.name+".txt")
			if *update {
				if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestBadQuestions(t *testing.T) {
	s := load(t, "shop", "")
	for want, q := range map[string]Question{
		"from: say who":                       {URL: "http://catalog/"},
		`from: there is no workload "nobody"`: {From: "default/nobody", URL: "http://catalog/"},
		`from: "x" is not label=value`:        {From: "default,x", URL: "http://catalog/"},
		"url: a question needs one":           {From: "default/web"},
		"must begin with http://":             {From: "default/web", URL: "ftp://catalog/"},
		"names no host":                       {From: "default/web", URL: "http:///x"},
		"tcp:// needs a port":                 {From: "default/web", URL: "tcp://ledger"},
		`"0" is no port`:                      {From: "default/web", URL: "http://catalog:0/"},
		`headers: "x" is not NAME: VALUE`:     {From: "default/web", URL: "http://catalog/", Headers: []string{"x"}},
		`address: "x" is not IP:PORT`:         {From: "default/web", URL: "http://catalog/", Address: "x"},
		"is not known: name it with":          {From: "default/web", URL: "tcp://db.example.org:5432"},
		"names no port":                       {To: "default/web"},
		`to: "x" is no port`:                  {To: "default/web:x"},
		`sourceIP: "x" is not an IP address`:  {To: "default/web:80", SourceIP: "x"},
		"method:":                             {From: "default/web", URL: "http://catalog/", Method: "A B"},
	} {
		_, err := Explain(s, q)
		var wrong *QuestionError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", q, err, want)
		}
	}
}

// FuzzExplain holds that no question breaks anything, and that every answer has
// an outcome and steps.
func FuzzExplain(f *testing.F) {
	for _, g := range goldens {
		f.Add(g.q.From, g.q.To, g.q.Method, g.q.URL, strings.Join(g.q.Headers, "\n"), g.q.Address, g.q.Principal)
	}
	s := load(f, "shop", "")
	f.Fuzz(func(t *testing.T, from, to, method, url, headers, address, principal string) {
		q := Question{From: from, To: to, Method: method, URL: url, Address: address, Principal: principal}
		if headers != "" {
			q.Headers = strings.Split(headers, "\n")
		}
		a, err := Explain(s, q)
		var wrong *QuestionError
		switch {
		case errors.As(err, &wrong):
		case err != nil:
			t.Fatalf("%+v: %v", q, err)
		case a.Outcome == "" || len(a.Steps) == 0:
			t.Fatalf("%+v: %+v", q, a)
		}
	})
}

func TestHandler(t *testing.T) {
	s := load(t, "shop", "")
	srv := httptest.NewServer(Handler(func() *mesh.Snapshot { return s }))
	defer srv.Close()
	ask := func(body string) (int, string) {
		t.Helper()
		res, err := http.Post(srv.URL, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b.String()
	}
	if code, body := ask(`{"from":"default/web","url":"http://catalog:8080/items"}`); code != 200 || !strings.Contains(body, `"outcome":"forward"`) {
		t.Error(code, body)
	}
	for _, bad := range []string{`{`, `{"frmo":1}`, `{"from":"default/nobody","url":"http://catalog/"}`} {
		if code, body := ask(bad); code != 400 || !strings.Contains(body, `"error"`) {
			t.Error(bad, code, body)
		}
	}
	res, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 405 || res.Header.Get("Allow") != "POST" {
		t.Error(res.Status)
	}
	none := httptest.NewServer(Handler(func() *mesh.Snapshot { return nil }))
	defer none.Close()
	res, err = http.Post(none.URL, "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 503 {
		t.Error(res.Status)
	}
}

func TestColours(t *testing.T) {
	for outcome, code := range map[string]string{Forward: "32", Reject: "31", Unsupported: "33"} {
		var b bytes.Buffer
		if err := (&Answer{Outcome: outcome, Steps: []string{"x"}}).WriteText(&b, true); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "\x1b[1;"+code+"m"+outcome+"\x1b[0m") {
			t.Errorf("%q", b.String())
		}
	}
}
