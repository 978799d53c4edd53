package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// TestProtocol holds the table of Istio's "Protocol Selection" page.
func TestProtocol(t *testing.T) {
	for _, c := range []struct {
		name, app string
		port      uint32
		want      seinev1.Protocol
	}{
		{"http", "", 80, seinev1.Protocol_PROTOCOL_HTTP},
		{"http-web", "", 80, seinev1.Protocol_PROTOCOL_HTTP},
		{"HTTP-web", "", 80, seinev1.Protocol_PROTOCOL_HTTP},
		{"httpweb", "", 80, seinev1.Protocol_PROTOCOL_DETECT},
		{"http2", "", 80, seinev1.Protocol_PROTOCOL_HTTP2},
		{"grpc", "", 80, seinev1.Protocol_PROTOCOL_GRPC},
		{"grpc-web", "", 80, seinev1.Protocol_PROTOCOL_HTTP2},
		{"grpc-x", "", 80, seinev1.Protocol_PROTOCOL_GRPC},
		{"https", "", 443, seinev1.Protocol_PROTOCOL_TLS},
		{"tls-x", "", 443, seinev1.Protocol_PROTOCOL_TLS},
		{"tcp", "", 80, seinev1.Protocol_PROTOCOL_TCP},
		{"mongo", "", 80, seinev1.Protocol_PROTOCOL_TCP},
		{"redis-cache", "", 80, seinev1.Protocol_PROTOCOL_TCP},
		{"mysql", "", 80, seinev1.Protocol_PROTOCOL_TCP},
		{"", "", 80, seinev1.Protocol_PROTOCOL_DETECT},
		{"web", "", 8080, seinev1.Protocol_PROTOCOL_DETECT},
		{"", "", 3306, seinev1.Protocol_PROTOCOL_TCP},
		{"db", "", 27017, seinev1.Protocol_PROTOCOL_TCP},
		{"", "", 25, seinev1.Protocol_PROTOCOL_TCP},
		{"http-db", "", 3306, seinev1.Protocol_PROTOCOL_HTTP},
		{"tcp", "http", 80, seinev1.Protocol_PROTOCOL_HTTP},
		{"http", "kubernetes.io/h2c", 80, seinev1.Protocol_PROTOCOL_HTTP2},
		{"http", "kubernetes.io/ws", 80, seinev1.Protocol_PROTOCOL_HTTP},
		{"http", "kubernetes.io/wss", 80, seinev1.Protocol_PROTOCOL_TLS},
		{"http", "example.com/own", 80, seinev1.Protocol_PROTOCOL_DETECT},
	} {
		if got := protocol(c.name, c.app, c.port); got != c.want {
			t.Errorf("name %q, appProtocol %q, port %d: %s, want %s", c.name, c.app, c.port, got, c.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	names := []string{"http", "hosts", "gateways", "exportTo", "tcp", "tls"}
	for word, want := range map[string]string{
		"htpp": "http", "host": "hosts", "gatway": "gateways", "exportto": "exportTo", "zzz": "", "": "", "completely-different": "",
	} {
		got := strings.TrimSuffix(strings.TrimPrefix(didYouMean(word, names), " (did you mean "), "?)")
		if got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		sub(item(sub("spec", "http"), 3), "route"):         "spec http 3 route",
		sub(sub("metadata.labels", "a.b/c"), "x"):          "metadata labels a.b/c x",
		sub("spec.headers", `quote"d`):                     `spec headers quote"d`,
		sub(sub("", "spec"), ""):                           "spec ",
		item("items", 0):                                   "items 0",
		"spec.http[0].match[1].headers[\"x\u00e9\"].exact": "spec http 0 match 1 headers x\u00e9 exact",
		"broken[\"": "broken",
	} {
		if got := strings.Join(segments(path), " "); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestOldestWins holds that order decides: files as given, then lines.
func TestOldestWins(t *testing.T) {
	vs := func(name, to string) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: %s}\nspec: {hosts: [a.example.com], http: [{route: [{destination: {host: %s}}]}]}\n---\n", name, to)
	}
	a, b := File{"a.yaml", []byte(vs("z", "one"))}, File{"b.yaml", []byte(vs("y", "two") + vs("x", "three"))}
	for _, c := range []struct {
		files []File
		want  string
	}{{[]File{a, b}, "z y x"}, {[]File{b, a}, "y x z"}} {
		r := Build(c.files, Options{})
		var order []string
		for _, v := range r.Snapshot.VirtualServices {
			order = append(order, v.Name)
		}
		if got := strings.Join(order, " "); got != c.want {
			t.Errorf("order %s, want %s", got, c.want)
		}
		losers := 0
		for _, f := range r.Findings {
			if f.Code == codeHostConflict {
				losers++
				if !strings.Contains(f.Message, "default/"+c.want[:1]) {
					t.Errorf("the winner is %s: %s", c.want[:1], f.Message)
				}
			}
		}
		if losers != 2 {
			t.Errorf("%d losers reported, want 2", losers)
		}
	}
}

// TestMergedRules holds that subsets of one rule get the policy of the other.
func TestMergedRules(t *testing.T) {
	const text = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: subsets}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: policy}
spec:
  host: a
  trafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}
  subsets:
  - {name: v2, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
  - {name: v3, trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}}
`
	r := Build([]File{{"x.yaml", []byte(text)}}, Options{})
	if len(r.Snapshot.DestinationRules) != 1 {
		t.Fatalf("%d rules", len(r.Snapshot.DestinationRules))
	}
	dr := r.Snapshot.DestinationRules[0]
	if dr.Name != "subsets" || dr.Policy.GetBalancer() != seinev1.TrafficPolicy_RANDOM || len(dr.Subsets) != 3 {
		t.Fatalf("%+v", dr)
	}
	v1, v2 := dr.Subsets[0], dr.Subsets[1]
	if v1.Policy.GetBalancer() != seinev1.TrafficPolicy_RANDOM || v1.PortPolicies[80].GetTls() != seinev1.TrafficPolicy_TLS_DISABLE {
		t.Errorf("v1: %+v", v1)
	}
	// a port's settings do not inherit; a subset's are laid over them
	if v2.PortPolicies[80].GetTls() != seinev1.TrafficPolicy_ISTIO_MUTUAL || v2.PortPolicies[80].GetBalancer() != seinev1.TrafficPolicy_DEFAULT {
		t.Errorf("v2: %+v", v2)
	}
	// a subset's own port settings replace the host's altogether
	if v3 := dr.Subsets[2]; v3.PortPolicies[80].GetTls() != seinev1.TrafficPolicy_AUTO || v3.PortPolicies[80].GetBalancer() != seinev1.TrafficPolicy_ROUND_ROBIN {
		t.Errorf("v3: %+v", v3)
	}
}

// TestCovers holds that a rule is only called unreachable where it is.
func TestCovers(t *testing.T) {
	exact := func(s string) *seinev1.StringMatch {
		return &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: s}}
	}
	prefix := func(s string) *seinev1.StringMatch {
		return &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: s}}
	}
	regex := func(s string) *seinev1.StringMatch {
		return &seinev1.StringMatch{Match: &seinev1.StringMatch_Regex{Regex: s}}
	}
	fold := func(m *seinev1.StringMatch) *seinev1.StringMatch { m.IgnoreCase = true; return m }
	present := &seinev1.StringMatch{Match: &seinev1.StringMatch_Present{Present: true}}
	for i, c := range []struct {
		a, b       *seinev1.StringMatch
		path, want bool
	}{
		{nil, nil, true, true},
		{nil, exact("/a"), true, true},
		{exact("/a"), nil, true, false},
		{prefix("/"), nil, true, true},
		{prefix("/"), regex(".*x"), true, true},
		{prefix("/a"), prefix("/ab"), true, true},
		{prefix("/ab"), prefix("/a"), true, false},
		{prefix("/a"), exact("/a"), true, true},
		{prefix("/a"), fold(prefix("/ab")), true, false},
		{fold(prefix("/A")), prefix("/ab"), true, true},
		{prefix("/a"), regex("/abc.*"), true, true},
		{prefix("/a"), regex("/a|/b"), true, false},
		{prefix("/a"), regex("(?i)/abc"), true, false},
		{exact("/a"), prefix("/a"), true, false},
		{exact("/a"), exact("/a"), true, true},
		{exact("/a"), exact("/b"), true, false},
		{regex("/a/[0-9]+"), exact("/a/12"), true, true},
		{regex("/a/[0-9]+"), exact("/a/x"), true, false},
		{regex("/a"), exact("/ab"), true, false},
		{regex("/a.*"), prefix("/ab"), true, false}, // it does, but that is not worth finding out
		{regex(".*"), nil, true, true},
		{regex(".*"), nil, false, false}, // the header may be absent
		{present, exact("x"), false, true},
		{present, nil, false, false},
		{exact("x"), present, false, false},
	} {
		if got := coversText(c.a, c.b, c.path); got != c.want {
			t.Errorf("case %d: %v covers %v: %v, want %v", i, c.a, c.b, got, c.want)
		}
	}
	header := func(name string, v *seinev1.StringMatch, invert bool) *seinev1.HttpMatch {
		return &seinev1.HttpMatch{Headers: []*seinev1.HeaderMatch{{Name: name, Value: v, Invert: invert}}}
	}
	mesh := []string{"mesh"}
	for i, c := range []struct {
		a, b *seinev1.HttpMatch
		want bool
	}{
		{&seinev1.HttpMatch{}, header("x", exact("y"), false), true},
		{header("x", exact("y"), false), &seinev1.HttpMatch{}, false},
		{header("x", present, false), header("x", exact("y"), false), true},
		{header("x", exact("y"), true), header("x", present, true), true},
		{header("x", present, true), header("x", exact("y"), true), false},
		{header("x", exact("y"), true), header("x", exact("y"), false), false},
		{&seinev1.HttpMatch{Port: 80}, &seinev1.HttpMatch{}, false},
		{&seinev1.HttpMatch{}, &seinev1.HttpMatch{Port: 80}, true},
		{&seinev1.HttpMatch{Gateways: mesh}, &seinev1.HttpMatch{}, true},
		{&seinev1.HttpMatch{Gateways: []string{"a/b"}}, &seinev1.HttpMatch{}, false},
		{&seinev1.HttpMatch{SourceLabels: map[string]string{"a": "b"}}, &seinev1.HttpMatch{SourceLabels: map[string]string{"a": "b", "c": "d"}}, true},
		{&seinev1.HttpMatch{SourceLabels: map[string]string{"a": "b"}}, &seinev1.HttpMatch{SourceLabels: map[string]string{"c": "d"}}, false},
	} {
		if got := covers(c.a, c.b, mesh); got != c.want {
			t.Errorf("match %d: %v, want %v", i, got, c.want)
		}
	}
}

func TestRootNamespace(t *testing.T) {
	pa := func(ns string) File {
		return File{ns + ".yaml", []byte("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: " + ns + "}\nspec: {mtls: {mode: STRICT}}\n")}
	}
	for _, c := range []struct {
		files []File
		mc    string
		want  string
	}{
		{[]File{pa("istio-system")}, "", "istio-system"},
		{[]File{pa("istio-system"), pa("seine-system")}, "", "seine-system"},
		{[]File{pa("istio-system")}, "rootNamespace: mine", "mine"},
		{[]File{pa("istio-system")}, "rootNamespace: seine-system", "seine-system"},
		{[]File{pa("istio-system")}, "trustDomain: a", "istio-system"},
		{nil, "", "seine-system"},
	} {
		opt := Options{}
		if c.mc != "" {
			opt.MeshConfig = &File{"mc", []byte(c.mc)}
		}
		if got := Build(c.files, opt).Snapshot.Settings.RootNamespace; got != c.want {
			t.Errorf("%d files, MeshConfig %q: %s, want %s", len(c.files), c.mc, got, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	r := Build(folder(t, "references"), Options{LocalInstances: true})
	var text, coloured, raw bytes.Buffer
	rep := NewReport(r)
	if err := rep.WriteText(&text, TextOptions{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.Bytes())
	if err := rep.WriteJSON(&raw); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", raw.Bytes())
	var back Report
	if err := json.Unmarshal(raw.Bytes(), &back); err != nil || len(back.Findings) != len(rep.Findings) || back.Findings[0] != rep.Findings[0] {
		t.Errorf("the JSON does not read back: %v", err)
	}
	_ = rep.WriteText(&coloured, TextOptions{Colour: true, Infos: true})
	if !strings.Contains(coloured.String(), "\x1b[1;31merror\x1b[0m") || strings.Contains(text.String(), "\x1b") {
		t.Error("colour where none is wanted, or none where it is")
	}
	empty := NewReport(Build(nil, Options{}))
	raw.Reset()
	_ = empty.WriteJSON(&raw)
	if !strings.Contains(raw.String(), `"findings": []`) {
		t.Errorf("no findings are an empty list: %s", raw.String())
	}
}

// FuzzBuild holds that no input makes Build panic, run away, or refuse without a
// finding that says where.
func FuzzBuild(f *testing.F) {
	for _, dir := range []string{"billing", "bookinfo", "istio2019", "today", "references", "broken"} {
		for _, file := range folder(f, dir) {
			for doc := range strings.SplitSeq(string(file.Data), "\n---\n") {
				f.Add([]byte(doc))
			}
		}
	}
	f.Add([]byte("a: &a [*a]\nkind: *a\n"))
	f.Add([]byte("{apiVersion: v1, kind: Service, metadata: {name: a, labels: {<<: &m {a: b}, c: d}}, spec: {<<: *m}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		r := Build([]File{{"fuzz.yaml", data}, {"fuzz.json", data}}, Options{LocalInstances: true, MeshConfig: &File{"mc.yaml", data}})
		if r.Snapshot == nil {
			t.Fatal("no snapshot")
		}
		if len(r.Findings) > 6*maxFindings+100 {
			t.Errorf("%d findings", len(r.Findings))
		}
		for _, x := range r.Findings {
			if x.Code == "" || x.Message == "" || x.File == "" {
				t.Errorf("a finding that says nothing: %+v", x)
			}
		}
		for _, s := range r.Snapshot.Services {
			if s.Host == "" || s.Namespace == "" || s.Host != strings.ToLower(s.Host) {
				t.Errorf("service %+v", s)
			}
		}
		for _, vs := range r.Snapshot.VirtualServices {
			for _, h := range vs.HTTP {
				if h.Source == nil || int(h.Index) >= len(vs.HTTP) {
					t.Errorf("rule %v", h)
				}
			}
		}
		var out bytes.Buffer
		if err := NewReport(r).WriteJSON(&out); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "apiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {selector: {app: s%d}, ports: [{port: 80, name: http}]}\n---\n", i, i)
		fmt.Fprintf(&text, "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: s%d-1, labels: {app: s%d, version: v1}}\nspec: {address: 10.1.%d.%d}\n---\n", i, i, i/250, i%250)
		fmt.Fprintf(&text, "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: s%d}\nspec: {host: s%d, subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n---\n", i, i)
		fmt.Fprintf(&text, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: s%d}\nspec: {hosts: [s%d], http: [{route: [{destination: {host: s%d, subset: v1}}]}]}\n---\n", i, i, i)
	}
	files := []File{{"big.yaml", []byte(text.String())}}
	b.ReportAllocs()
	for b.Loop() {
		Build(files, Options{})
	}
}
