package span

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry"
)

var update = flag.Bool("update", false, "write the goldens")

var self = &seinev1.Workload{
	Namespace: "default", Name: "frontend-1", Workload: "frontend", Identity: "spiffe://cluster.local/ns/default/sa/frontend",
	CanonicalService: "frontend", Version: "v1", Cluster: "Kubernetes",
}

// full is a span with everything on it.
func full() *Span {
	return &Span{
		Late: true, Trace: [16]byte{0: 1, 15: 2}, ID: [8]byte{3, 7: 4}, Parent: [8]byte{5, 7: 6}, State: []byte("a=1"),
		Start: time.Unix(1795395723, 456789000), Duration: 12900 * time.Microsecond,
		Method: []byte("POST"), Path: []byte("/billing.Pay/Pay?x=1"), Host: []byte("billing:8080"), Agent: []byte("grpc\xffgo"), RequestID: []byte("8b7c0a7e"),
		Minor: 2, Mutual: true, Status: 200, GRPC: 14, IsGRPC: true, Flag: telemetry.FlagUFURX, Details: "upstream_reset", Cause: "refused", Attempts: 3,
		Received: 5, Sent: 7, Upstream: netip.MustParseAddrPort("10.0.0.7:8080"), Remote: netip.MustParseAddrPort("[fd00::5]:40110"),
		Local: netip.MustParseAddrPort("10.96.0.3:8080"), Cluster: "outbound|8080|v1|billing", Route: "default/billing[0]", Service: "billing.default.svc", Port: 8080,
		Peer: &seinev1.Workload{Namespace: "default", Workload: "billing", Name: "billing-1", CanonicalService: "billing", CanonicalRevision: "v1"},
		Tags: []Tag{{"tenant", []byte("acme")}},
		Events: []Event{
			{Kind: WaitConnect, At: time.Millisecond, Took: 2 * time.Millisecond, Address: netip.MustParseAddrPort("10.0.0.8:8080")},
			{Kind: Retry, At: 3 * time.Millisecond, Attempt: 2, Status: 503, Text: "no connection"},
		},
	}
}

func TestRecord(t *testing.T) {
	for name, s := range map[string]*Span{"full": full(), "empty": {GRPC: -1, Start: time.Unix(0, 0)}} {
		b := s.encode(make([]byte, 0, s.size()))
		if len(b) != s.size() {
			t.Errorf("%s: %d bytes, want %d", name, len(b), s.size())
		}
		got := decode(b)
		if name == "empty" { // empty texts come back as such
			got.State, got.Method, got.Path, got.Host, got.Agent, got.RequestID = nil, nil, nil, nil, nil, nil
		}
		if !reflect.DeepEqual(got, s) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, s)
		}
	}
}

func TestRecordIsBounded(t *testing.T) {
	s := full()
	s.Path, s.Cause = make([]byte, 100_000), string(make([]byte, 100_000))
	s.Tags, s.Events = make([]Tag, 1000), make([]Event, 1000)
	b := s.encode(make([]byte, 0, s.size()))
	if len(b) != s.size() || len(b) > 32<<10 {
		t.Errorf("%d bytes of %d", len(b), s.size())
	}
	if got := decode(b); len(got.Path) != maxValue || len(got.Tags) != maxTags || len(got.Events) != MaxEvents {
		t.Errorf("path of %d, %d tags, %d events", len(got.Path), len(got.Tags), len(got.Events))
	}
}

// TestGoldens holds what a collector is sent to what it was sent before.
func TestGoldens(t *testing.T) {
	sd := newSide(&seinev1.Tracing{
		MeshTags: true,
		Tags: []*seinev1.TraceTag{
			{Name: "team", Value: &seinev1.TraceTag_Literal{Literal: "payments"}},
			{Name: "zone", Value: &seinev1.TraceTag_Environment{Environment: "ZONE"}, Fallback: "none"},
			{Name: "rack", Value: &seinev1.TraceTag_Environment{Environment: "RACK"}},
			{Name: "none", Value: &seinev1.TraceTag_Environment{Environment: "NONE"}},
		},
	}, self, func(name string) (string, bool) { return "r7", name == "RACK" })
	server := full()
	server.Server, server.Late, server.Status, server.GRPC, server.IsGRPC, server.Flag, server.Cause = true, false, 200, -1, false, telemetry.FlagNone, ""
	server.Upstream = netip.MustParseAddrPort("127.0.0.1:8080")
	batch := []reported{{full(), sd}, {server, sd}}
	one, err := protojson.MarshalOptions{}.Marshal(otlp(self, batch))
	if err != nil {
		t.Fatal(err)
	}
	two, err := zipkin(self, batch)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"otlp": one, "zipkin": two} {
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(append(got, '\n')) != string(want) {
			t.Errorf("%s differs from %s; run with -update and read the difference", name, path)
		}
	}
}

func TestFailed(t *testing.T) {
	for _, k := range []struct {
		status, grpc   int
		server         bool
		failed, marked bool
	}{
		{200, -1, true, false, false}, {404, -1, true, false, false}, {404, -1, false, false, true}, {500, -1, true, true, true},
		{0, -1, true, true, true}, {200, 0, false, false, false}, {200, 5, true, false, false}, {200, 5, false, false, true}, {200, 14, true, true, true},
	} {
		s := Span{Status: k.status, GRPC: k.grpc, Server: k.server}
		if Failed(k.status, k.grpc) != k.failed || s.failed() != k.marked {
			t.Errorf("%+v: %t, %t", k, Failed(k.status, k.grpc), s.failed())
		}
	}
}
