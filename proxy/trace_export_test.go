//go:build linux

package proxy

import (
	"io"
	"net"
	"net/http"
	"testing"

	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// TestTraceOverGRPC: spans reach a collector over gRPC, on a connection of the
// proxy's own data path.
func TestTraceOverGRPC(t *testing.T) {
	c := &collector{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c.at = l.Addr().(*net.TCPAddr).AddrPort()
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var data tracev1.TracesData
		if err := stream.RecvMsg(&data); err != nil {
			return err
		}
		c.mu.Lock()
		c.spans = append(c.spans, data.ResourceSpans[0].ScopeSpans[0].Spans...)
		c.mu.Unlock()
		return stream.SendMsg(&emptypb.Empty{})
	}))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	p := startPair(t, app(t, func(http.ResponseWriter, *http.Request) {}), nil, nil)
	tr := c.tracing(100)
	tr.Collector.Protocol = seinev1.Collector_OTLP_GRPC
	c.trace(t, p.client, tr, nil)
	dial(t, p.addr).get("/")
	if a := tags(c.wait(t, 1)[0]); a["url.path"] != "/" {
		t.Errorf("%v", a)
	}
	p.client.shows(t, `seine_trace_spans_total{outcome="sent"} 1`)
}

// TestTraceToZipkin: and Zipkin's JSON reaches its API.
func TestTraceToZipkin(t *testing.T) {
	got := make(chan string, 1)
	c := &collector{at: app(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.Method == "POST" && r.URL.Path == "/api/v2/spans" && r.Header.Get("Content-Type") == "application/json" {
			got <- string(b)
		}
		w.WriteHeader(http.StatusAccepted)
	})}
	p := startPair(t, app(t, func(http.ResponseWriter, *http.Request) {}), nil, nil)
	tr := c.tracing(100)
	tr.Collector.Protocol, tr.Collector.Path = seinev1.Collector_ZIPKIN, "/api/v2/spans"
	c.trace(t, p.client, tr, nil)
	dial(t, p.addr).get("/")
	if b := <-got; len(b) < 10 || b[0] != '[' {
		t.Error(b)
	}
	p.client.shows(t, `seine_trace_spans_total{outcome="sent"} 1`)
}
