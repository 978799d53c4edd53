package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/decide"
)

const (
	method       = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	receiveMost  = 8 << 20
	backoffLeast = 100 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// Run keeps the stream up until ctx ends. It is called once.
func (c *Client) Run(ctx context.Context) error {
	if c.opt.Certified != nil {
		select {
		case <-c.opt.Certified:
		case <-ctx.Done():
			return nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() { defer close(kept); c.keep(ctx) }()
	defer func() { cancel(); <-kept }()

	delay := backoffLeast
	for {
		began := time.Now()
		err := c.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if c.wanted() {
			delay = backoffLeast
			continue
		}
		was := c.disconnected(err)
		if was || time.Since(began) > backoffMost {
			delay = backoffLeast
		}
		// Half of it is drawn, so that a fleet does not come back in step.
		wait := time.NewTimer(delay/2 + rand.N(delay))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
		delay = min(delay*8/5, backoffMost)
	}
}

// connect runs one stream over a connection of its own: a new stream comes with
// the certificate of this moment, and the one before may have expired.
func (c *Client) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.cut = cancel // from before the handshake on: no certificate is older than what Reconnect ends
	c.mu.Unlock()
	defer func() {
		cancel()
		c.mu.Lock()
		c.cut = nil
		c.mu.Unlock()
	}()
	conn, err := grpc.NewClient("passthrough:///"+c.opt.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.opt.TLS)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.opt.Dial(ctx, address) }),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(receiveMost)),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(), grpc.WithDisableRetry())
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is lost by a failure to
	return c.stream(ctx, conn)
}

// wanted reports whether the stream ended because Reconnect was called.
func (c *Client) wanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.again
	c.again = false
	return again
}

// disconnected notes why the stream ended and reports whether it had been up.
func (c *Client) disconnected(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := &c.state
	was := st.connected
	why := explain(err)
	if was || why != st.lastError {
		c.log.Warn("the control plane is away; going on with what is known", "address", c.opt.Address, "err", why)
	}
	if was || st.since.IsZero() {
		st.since = time.Now()
	}
	st.connected, st.lastError = false, why
	return was
}

func explain(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return "the stream was closed"
	}
	if s, ok := grpcstatus.FromError(err); ok {
		if s.Code() == codes.Unknown {
			return s.Message()
		}
		return s.Code().String() + ": " + s.Message()
	}
	return err.Error()
}

// keep looks after deadlines and what is not used any more.
func (c *Client) keep(ctx context.Context) {
	every := max(min(c.opt.Idle/8, c.opt.Patient/2), time.Millisecond)
	sweep := time.NewTicker(every)
	defer sweep.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			c.mu.Lock()
			c.state.sweep(time.Now())
			c.mu.Unlock()
			c.kick()
		case <-again.C:
		case <-c.recall:
		}
		if at := c.publish(); !at.IsZero() {
			again.Reset(max(time.Until(at), 0))
		}
	}
}

// publish makes a new Table if there is one to make.
func (c *Client) publish() (again time.Time) {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	c.mu.Lock()
	v, again := c.state.publish(c.view.Load(), time.Now())
	notify := c.notify
	c.mu.Unlock()
	if v == nil {
		return again
	}
	c.view.Store(v)
	c.stats.publishes.Add(1)
	c.readyOnce.Do(func() { close(c.ready) })
	for _, f := range notify {
		f(v.table)
	}
	return again
}

// stream runs one stream until it ends.
func (c *Client) stream(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	c.stats.connects.Add(1)
	c.mu.Lock()
	c.state.reconnect()
	c.mu.Unlock()
	c.kick()

	var others sync.WaitGroup
	others.Go(func() { c.send(ctx, st) })
	defer func() { cancel(); others.Wait() }()

	// The server sends its header when it has accepted who we are; there may
	// be nothing else to say to a proxy that knows everything already.
	if _, err := st.Header(); err != nil {
		return err
	}
	accepted := false
	for {
		m := new(xdsv3.DeltaDiscoveryResponse)
		if !accepted {
			// A stream that was refused has a header too, but ends with it.
			accepted = true
			if md, _ := st.Header(); len(md.Get(seinev1.AcceptedHeader)) == 0 {
				if err := st.RecvMsg(m); err != nil {
					return err
				}
				return errors.New("the server is not seined: it did not say that it accepted the stream")
			}
			c.mu.Lock()
			c.state.connected, c.state.since, c.state.lastError = true, time.Now(), ""
			c.mu.Unlock()
			c.log.Info("connected to the control plane", "address", c.opt.Address)
			if c.opt.Beside != nil {
				others.Go(func() { c.opt.Beside(ctx, conn) })
			}
		}
		if err := st.RecvMsg(m); err != nil {
			return err
		}
		c.receive(m)
	}
}

// send sends what there is to send until the stream ends.
func (c *Client) send(ctx context.Context, st grpc.ClientStream) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		requests, acks := c.state.requests()
		c.mu.Unlock()
		for _, m := range requests {
			if st.SendMsg(m) != nil {
				return // the receiver learns why
			}
		}
		if acks > 0 {
			c.stats.acks.Add(uint64(acks))
			c.stats.lastAck.Store(time.Now().UnixNano())
		}
	}
}

// compiled is one resource of a response, ready to be held.
type compiled struct {
	name, version string
	self          *decide.Self
	answer        *decide.Answer
	service       *decide.Service
	endpoint      *decide.Endpoint
	err           error
}

// receive takes one response: compiles outside the lock what is new, holds it,
// acknowledges it, and publishes when its batch is complete.
func (c *Client) receive(m *xdsv3.DeltaDiscoveryResponse) {
	k, ok := kindOf(m.TypeUrl)
	if !ok {
		c.mu.Lock()
		c.state.out.acknowledge(ack{url: m.TypeUrl, nonce: m.Nonce, err: "this type was not asked for"})
		c.mu.Unlock()
		c.kick()
		return
	}
	c.mu.Lock()
	fresh := m.Resources[:0:0]
	for _, r := range m.Resources {
		if !c.state.has(k, r.Name, r.Version) {
			fresh = append(fresh, r)
		}
	}
	c.mu.Unlock()
	var bad strings.Builder
	done := make([]compiled, 0, len(fresh))
	for _, r := range fresh {
		v := compile(k, r)
		if v.err == nil && v.self != nil && c.opt.Trust != nil {
			v.err = c.opt.Trust(v.self.Proto)
		}
		if v.err != nil {
			c.stats.rejected.Add(1)
			c.log.Error("a resource was refused; the version before it stays", "type", m.TypeUrl, "name", r.Name, "version", r.Version, "err", v.err)
			if bad.Len() < 64<<10 {
				fmt.Fprintf(&bad, "%s: %s\n", r.Name, oneLine(v.err))
			}
			continue
		}
		done = append(done, v)
	}
	now := time.Now()
	c.mu.Lock()
	for i := range done {
		c.state.apply(k, &done[i])
	}
	for _, name := range m.RemovedResources {
		c.state.remove(k, name)
	}
	generation, more := seinev1.ParseSystemVersion(m.SystemVersionInfo)
	if k == kindSelf {
		c.state.resync = false
	}
	if more || c.state.resync {
		if c.state.half.IsZero() || c.state.halfOf != generation {
			c.state.half, c.state.halfOf = now, generation
		}
	} else {
		c.state.half = time.Time{}
		c.state.generation = generation
		c.state.finish()
	}
	c.state.trim(now)
	c.state.out.acknowledge(ack{url: m.TypeUrl, nonce: m.Nonce, err: bad.String()})
	c.mu.Unlock()
	c.kick()
	if at := c.publish(); !at.IsZero() {
		select {
		case c.recall <- struct{}{}:
		default:
		}
	}
}

func oneLine(err error) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, err.Error())
}

// compile decodes and compiles one resource. A panic in it is an error of that
// resource, as every other.
func compile(k kind, r *xdsv3.Resource) (v compiled) {
	v = compiled{name: r.Name, version: r.Version}
	defer func() {
		if p := recover(); p != nil {
			v.err = fmt.Errorf("panic: %v", p)
		}
	}()
	if r.Resource == nil || r.Resource.TypeUrl != kindURL[k] {
		v.err = fmt.Errorf("the resource is of type %q", r.Resource.GetTypeUrl())
		return v
	}
	decode := func(m proto.Message) bool {
		v.err = proto.Unmarshal(r.Resource.Value, m)
		return v.err == nil
	}
	switch k {
	case kindSelf:
		if m := new(seinev1.Self); decode(m) {
			v.self, v.err = decide.CompileSelf(m)
		}
	case kindAnswer:
		if m := new(seinev1.Answer); decode(m) {
			v.answer, v.err = decide.CompileAnswer(m)
		}
	case kindService:
		if m := new(seinev1.Service); decode(m) {
			v.service, v.err = decide.CompileService(m)
		}
	case kindEndpoint:
		key, id, err := seinev1.ParseEndpointName(r.Name)
		if v.err = err; err != nil {
			return v
		}
		if m := new(seinev1.Endpoint); decode(m) {
			if m.Id != id {
				v.err = fmt.Errorf("endpoint %q of %s came under the name of %q", m.Id, key, id)
				return v
			}
			v.endpoint, v.err = decide.CompileEndpoint(m)
		}
	}
	return v
}

// nack is a request's error_detail.
func nack(sentence string) *status.Status {
	return &status.Status{Code: int32(codes.InvalidArgument), Message: strings.TrimSuffix(sentence, "\n")}
}
