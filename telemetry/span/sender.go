package span

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/telemetry/trace"
)

// sender takes batches to a collector, one at a time.
type sender interface {
	// send returns nil once the collector has taken the batch, a *refusal if it
	// will never take it, a *partial if it has left some out, and another error
	// if it may take it later.
	send(ctx context.Context, batch []reported) error
	close()
}

// refusal is an error that another try does not mend.
type refusal struct{ error }

// later is an error after which the collector wants to be left alone for a
// time.
type later struct {
	error
	after time.Duration
}

// partial: the collector has taken the batch but for some spans.
type partial struct {
	rejected int64
	message  string
}

func (p *partial) Error() string {
	return fmt.Sprintf("it rejected %d spans: %s", p.rejected, p.message)
}

const (
	exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	maxAnswer    = 64 << 10 // bytes of a collector's answer
)

// newSender returns the way to a collector. dial connects to an address whose
// name is not resolved yet.
func newSender(c *seinev1.Collector, self *seinev1.Workload, dial func(context.Context, string) (net.Conn, error), env func(string) (string, bool)) (sender, error) {
	address := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	// What takes spans anywhere is itself no part of a trace: the collector's own
	// sidecar must not report it.
	headers := [][2]string{{"traceparent", untraced()}}
	for _, h := range c.Headers {
		if v, ok := resolve(h, env); ok {
			headers = append(headers, [2]string{h.Name, v})
		}
	}
	switch c.Protocol {
	case seinev1.Collector_OTLP_GRPC:
		conn, err := grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial), grpc.WithAuthority(address),
			grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
		if err != nil {
			return nil, fmt.Errorf("collector %s: %w", address, err)
		}
		md := metadata.MD{}
		for _, h := range headers {
			md.Append(h[0], h[1])
		}
		return &grpcSender{conn, self, md}, nil
	case seinev1.Collector_OTLP_HTTP, seinev1.Collector_ZIPKIN:
		h := &httpSender{self: self, url: "http://" + address + c.Path, headers: headers, transport: &http.Transport{
			DialContext:     func(ctx context.Context, _, a string) (net.Conn, error) { return dial(ctx, a) },
			MaxConnsPerHost: 1, IdleConnTimeout: 90 * time.Second, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
		}}
		h.zipkin = c.Protocol == seinev1.Collector_ZIPKIN
		return h, nil
	}
	return nil, fmt.Errorf("collector %s: protocol %v is not known to this proxy", address, c.Protocol)
}

// untraced is a traceparent that nobody samples.
func untraced() string {
	o := trace.Out{Trace: trace.MakeID(rand.Uint64(), rand.Uint64()), Span: trace.MakeSpanID(rand.Uint64()), Formats: trace.W3C}
	_, b := o.Append(nil, nil)
	return string(b)
}

type grpcSender struct {
	conn    *grpc.ClientConn
	self    *seinev1.Workload
	headers metadata.MD
}

func (g *grpcSender) send(ctx context.Context, batch []reported) error {
	var answer emptypb.Empty // its one field is read by hand
	err := g.conn.Invoke(metadata.NewOutgoingContext(ctx, g.headers), exportMethod, otlp(g.self, batch), &answer)
	if err == nil {
		return rejected(answer.ProtoReflect().GetUnknown())
	}
	switch status.Code(err) { // OTLP's list of what may be tried again
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss, codes.ResourceExhausted:
		return err
	}
	return &refusal{err}
}

func (g *grpcSender) close() { _ = g.conn.Close() }

type httpSender struct {
	self      *seinev1.Workload
	url       string
	zipkin    bool
	headers   [][2]string
	transport *http.Transport
}

func (h *httpSender) send(ctx context.Context, batch []reported) error {
	var body []byte
	var err error
	kind := "application/x-protobuf"
	if h.zipkin {
		kind = "application/json"
		body, err = zipkin(h.self, batch)
	} else {
		body, err = proto.Marshal(otlp(h.self, batch))
	}
	if err != nil {
		return &refusal{err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return &refusal{err}
	}
	req.Header.Set("Content-Type", kind)
	for _, f := range h.headers {
		req.Header.Set(f[0], f[1])
	}
	// Through the transport itself: a collector's redirect is not followed.
	res, err := h.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case res.StatusCode/100 == 2 && h.zipkin:
		return nil
	case res.StatusCode/100 == 2 && err != nil:
		return nil // it has taken them
	case res.StatusCode/100 == 2:
		return rejected(answer)
	}
	said := res.Header.Get("x-seine-cause")
	if said == "" {
		said = clean(answer, 200)
	}
	err = fmt.Errorf("it answered %s: %s", res.Status, said)
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if n, bad := strconv.Atoi(res.Header.Get("Retry-After")); bad == nil && n > 0 {
			return &later{err, time.Duration(n) * time.Second}
		}
		return err
	}
	return &refusal{err}
}

func (h *httpSender) close() { h.transport.CloseIdleConnections() }

var errAnswer = errors.New("its answer is malformed")

// rejected reads the answer of OTLP's service: partial_success (1) with
// rejected_spans (1) and error_message (2).
func rejected(b []byte) error {
	var p partial
	err := eachField(b, func(n protowire.Number, _ uint64, v []byte) error {
		if n != 1 {
			return nil
		}
		return eachField(v, func(n protowire.Number, i uint64, v []byte) error {
			switch n {
			case 1:
				p.rejected = int64(i)
			case 2:
				p.message = clean(v, 200)
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return nil // whatever it said, it said that it has taken them
	case p.rejected > 0:
		return &p
	}
	return nil
}

// eachField calls f with the number and the value of each field of a message.
func eachField(b []byte, f func(n protowire.Number, i uint64, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errAnswer
		}
		b = b[n:]
		var i uint64
		var v []byte
		switch typ {
		case protowire.VarintType:
			i, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errAnswer
		}
		if err := f(num, i, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
