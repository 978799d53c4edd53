package control

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	xdsv3 "github.com/seinemesh/seine/api/xds/v3"
	"github.com/seinemesh/seine/discovery/discoverytest"
)

// offline returns a client that nobody runs: tests hand it responses.
func offline(t testing.TB, conf Options) *Client {
	t.Helper()
	conf.Address, conf.Node, conf.Log = "seined:15012", node, slog.New(slog.DiscardHandler)
	conf.TLS = discoverytest.NewPKI(t).Client("-")
	c, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func resource(t testing.TB, k kind, name, version string, m proto.Message) *xdsv3.Resource {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &xdsv3.Resource{Name: name, Version: version, Resource: &anypb.Any{TypeUrl: kindURL[k], Value: b}}
}

// sound checks what must hold of a client at any moment.
func (c *Client) sound() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := &c.state
	refs, shown := map[string]int{}, map[string]int{}
	unknown := 0
	for _, a := range st.answers {
		for _, key := range a.deps {
			refs[key]++
		}
		for _, key := range a.old {
			refs[key]++
			shown[key]++
		}
		if a.latest != nil && a.list == &st.foreign && a.latest.Proto.Kind != seinev1.Answer_PASSTHROUGH {
			unknown++
		}
	}
	for key, s := range st.services {
		if s.refs != refs[key] || s.shown != shown[key] {
			return fmt.Errorf("%s is counted %d and %d times, not %d and %d", key, s.refs, s.shown, refs[key], shown[key])
		}
		delete(refs, key)
	}
	switch {
	case len(refs) > 0:
		return fmt.Errorf("services that are named are not held: %v", refs)
	case unknown != st.unknown:
		return fmt.Errorf("%d unknown answers are counted as %d", unknown, st.unknown)
	case st.held.Len()+st.foreign.Len() != len(st.answers):
		return fmt.Errorf("%d and %d answers in lists, %d held", st.held.Len(), st.foreign.Len(), len(st.answers))
	case len(st.answers) > st.opt.Answers || st.foreign.Len() > st.opt.Unknown:
		return fmt.Errorf("%d answers, of them %d foreign, are more than the bounds", len(st.answers), st.foreign.Len())
	}
	if v := c.view.Load(); v != nil {
		return whole(v.table)
	}
	return nil
}

// FuzzScript runs a client through whatever may happen to it, in any order:
// every Table must be whole and every count right.
func FuzzScript(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 2, 1, 3, 1, 9, 0})
	f.Add([]byte{9, 0, 0, 1, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 0, 7, 0, 8, 0, 1, 1})
	f.Add([]byte("0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 2000 {
			return
		}
		c := offline(t, Options{Answers: 6, Unknown: 3, Burst: 1000})
		now := time.Now()
		n := 0
		for len(script) >= 2 {
			op, arg := script[0]%10, script[1]
			script = script[2:]
			n++
			name := fmt.Sprintf("http/80/h%d", arg%8)
			svc := fmt.Sprintf("s%d", arg%5)
			key := seinev1.ServiceKey(fqdn(svc), 80)
			m := &xdsv3.DeltaDiscoveryResponse{SystemVersionInfo: seinev1.SystemVersion(uint64(n), arg >= 192), Nonce: "x"}
			v := fmt.Sprint(n)
			switch op {
			case 0:
				c.Want(name)
				c.Use(name).Touch()
			case 1:
				to := []*seinev1.Destination{destination(svc, "", 1), destination(fmt.Sprintf("s%d", arg/8%5), "v1", 1)}
				m.TypeUrl, m.Resources = seinev1.TypeAnswer, []*xdsv3.Resource{resource(t, kindAnswer, name, v, routes(to...))}
			case 2:
				kinds := []seinev1.Answer_Kind{seinev1.Answer_UNKNOWN, seinev1.Answer_PASSTHROUGH, seinev1.Answer_BLACKHOLE}
				m.TypeUrl, m.Resources = seinev1.TypeAnswer, []*xdsv3.Resource{resource(t, kindAnswer, name, v, &seinev1.Answer{Kind: kinds[int(arg)/8%3]})}
			case 3:
				m.TypeUrl, m.Resources = seinev1.TypeService, []*xdsv3.Resource{resource(t, kindService, key, v, aService(svc, "v1"))}
			case 4:
				e := someEndpoints(svc, "v1", 3)[arg/8%3]
				m.TypeUrl, m.Resources = seinev1.TypeEndpoint, []*xdsv3.Resource{resource(t, kindEndpoint, key+"/"+e.Id, v, e)}
			case 5:
				m.TypeUrl, m.RemovedResources = seinev1.TypeService, []string{key, "never", name}
			case 6:
				m.TypeUrl, m.RemovedResources = seinev1.TypeEndpoint, []string{key + "/*", key + "/default/" + svc + "-v1-0", "x"}
			case 7:
				m.TypeUrl, m.RemovedResources = seinev1.TypeAnswer, []string{name}
			case 8:
				now = now.Add(time.Duration(arg) * time.Second)
				c.mu.Lock()
				if arg%2 == 0 {
					c.state.reconnect()
				}
				c.state.sweep(now)
				c.state.requests()
				c.mu.Unlock()
				c.publish()
			case 9:
				m.TypeUrl, m.Resources = seinev1.TypeSelf, []*xdsv3.Resource{resource(t, kindSelf, "self", v, &seinev1.Self{TrustDomain: "cluster.local", Workload: &seinev1.Workload{}})}
			}
			if m.TypeUrl != "" {
				c.receive(m)
			}
			if err := c.sound(); err != nil {
				t.Fatalf("after step %d (%d %d): %v", n, op, arg, err)
			}
		}
	})
}

// FuzzReceive hands a client whatever bytes a server may send.
func FuzzReceive(f *testing.F) {
	for _, m := range []*xdsv3.DeltaDiscoveryResponse{
		{TypeUrl: seinev1.TypeSelf, Resources: []*xdsv3.Resource{resource(f, kindSelf, "self", "1", &seinev1.Self{})}},
		{TypeUrl: seinev1.TypeAnswer, SystemVersionInfo: "3+", Resources: []*xdsv3.Resource{resource(f, kindAnswer, "http/80/a", "1", routes(destination("a", "v1", 1)))}},
		{TypeUrl: seinev1.TypeEndpoint, RemovedResources: []string{"a/80/*", "a/80/x"}, Resources: []*xdsv3.Resource{{Name: "a/80/x"}, {}}},
		{TypeUrl: "else"},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(xdsv3.DeltaDiscoveryResponse)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		c := offline(t, Options{})
		c.Want("http/80/a")
		c.receive(m)
		c.receive(m)
		if err := c.sound(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReceiveRefuses(t *testing.T) {
	for what, m := range map[string]*xdsv3.DeltaDiscoveryResponse{
		"of type":              {TypeUrl: seinev1.TypeSelf, Resources: []*xdsv3.Resource{{Name: "self", Version: "1", Resource: &anypb.Any{TypeUrl: seinev1.TypeAnswer}}}},
		"of type \"\"":         {TypeUrl: seinev1.TypeSelf, Resources: []*xdsv3.Resource{{Name: "self", Version: "1"}}},
		"proto:":               {TypeUrl: seinev1.TypeSelf, Resources: []*xdsv3.Resource{{Name: "self", Version: "1", Resource: &anypb.Any{TypeUrl: seinev1.TypeSelf, Value: []byte{0xff}}}}},
		"under the name":       {TypeUrl: seinev1.TypeEndpoint, Resources: []*xdsv3.Resource{resource(t, kindEndpoint, fqdn("a")+"/80/other", "1", someEndpoints("a", "v1", 1)[0])}},
		"was not asked for":    {TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"},
		"malformed resource n": {TypeUrl: seinev1.TypeEndpoint, Resources: []*xdsv3.Resource{resource(t, kindEndpoint, "x", "1", &seinev1.Endpoint{})}},
	} {
		c := offline(t, Options{})
		c.state.want("http/80/a", time.Now())
		c.state.retain([]string{fqdn("a") + "/80"})
		c.receive(m)
		out, acks := c.state.requests()
		if acks != 0 || out[0].ErrorDetail == nil || !strings.Contains(out[0].ErrorDetail.Message, what) {
			t.Errorf("%s: %v", what, out[0])
		}
	}
}

// What is held of a collection that is too large to be named in a request is
// asked for anew, in requests of a bounded size.
func TestRequestsAreBounded(t *testing.T) {
	c := offline(t, Options{Answers: 10_000, Burst: 10_000})
	st := &c.state
	pad := strings.Repeat("a", 240)
	for i := range 9000 {
		st.want(fmt.Sprintf("http/80/%s%d", pad, i), time.Now())
		st.answers[fmt.Sprintf("http/80/%s%d", pad, i)].version = "v"
	}
	key := fqdn("big") + "/80"
	st.retain([]string{key})
	s := st.services[key]
	s.all = true
	for i := range 30_000 {
		s.endpoints[fmt.Sprintf("%s/default/some-long-instance-name-%d", key, i)] = &endpoint{version: "v"}
	}
	st.reconnect()
	out, _ := st.requests()
	names := 0
	for i, m := range out {
		if n := proto.Size(m); n > 3<<20 {
			t.Errorf("request %d has %d bytes", i, n)
		}
		if (m.Node != nil) != (i == 0) {
			t.Errorf("request %d: node %v", i, m.Node)
		}
		names += len(m.ResourceNamesSubscribe)
	}
	if names != 9000+2+1 || out[len(out)-1].TypeUrl != seinev1.TypeSelf {
		t.Errorf("%d names in %d requests, the last of %s", names, len(out), out[len(out)-1].TypeUrl)
	}
	if s.all || len(s.endpoints) != 0 {
		t.Error("endpoints that the server was not told of are still held")
	}
}

func TestHalfABatchIsNotPublished(t *testing.T) {
	c := offline(t, Options{})
	send := func(version string, k kind, r ...*xdsv3.Resource) {
		c.receive(&xdsv3.DeltaDiscoveryResponse{TypeUrl: kindURL[k], SystemVersionInfo: version, Resources: r})
	}
	self := func(td string) *xdsv3.Resource {
		return resource(t, kindSelf, "self", td, &seinev1.Self{TrustDomain: td, Workload: &seinev1.Workload{}})
	}
	send("1", kindSelf, self("one"))
	first := c.Table()
	if first == nil || first.Generation != 1 {
		t.Fatalf("%+v", first)
	}
	send("2+", kindSelf, self("two"))
	if c.Table() != first {
		t.Error("half a batch was published")
	}
	// The rest never comes: what is there counts after a while.
	c.mu.Lock()
	c.state.half = c.state.half.Add(-2 * patience)
	c.mu.Unlock()
	c.publish()
	if c.Table().Self.Proto.TrustDomain != "two" {
		t.Error("half a batch is held back for ever")
	}
	send("3+", kindSelf, self("three"))
	send("3", kindAnswer)
	if got := c.Table(); got.Generation != 3 || got.Self.Proto.TrustDomain != "three" {
		t.Errorf("%+v", got)
	}
}
