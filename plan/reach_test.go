package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// changing is a mesh whose pods come, go and change, and are listed late or wrongly.
type changing struct {
	rng      *rand.Rand
	parts    mesh.Parts
	pods     map[string]*mesh.Workload
	backends map[string][]mesh.Backend
}

const services = 6

func newChanging(seed uint64) *changing {
	c := &changing{rng: rand.New(rand.NewPCG(seed, 1)), pods: map[string]*mesh.Workload{}, backends: map[string][]mesh.Backend{}}
	c.parts.Settings = mesh.DefaultSettings()
	c.parts.Settings.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for i := range services {
		svc := &mesh.Service{
			Ref: mesh.Ref{Kind: "Service", Namespace: "shop", Name: fmt.Sprintf("s%d", i)}, Host: fmt.Sprintf("s%d.shop.svc.cluster.local", i),
			Selector: map[string]string{"app": fmt.Sprintf("s%d", i)}, Ports: []mesh.Port{{Name: "http", Number: 80, TargetName: "web"}, {Name: "tcp", Number: 90, Target: 9090, Protocol: seinev1.Protocol_PROTOCOL_TCP}},
		}
		switch i {
		case 0:
			svc.Headless = true
		case 1:
			svc.Selector = nil
		case 2:
			svc.Selector = map[string]string{"app": "s3", "version": "v1"}
		default:
			svc.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})}
		}
		c.parts.Services = append(c.parts.Services, svc)
	}
	c.parts.Services = append(c.parts.Services, &mesh.Service{
		Ref: mesh.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "written"}, Host: "written.example.com", Ports: []mesh.Port{{Name: "http", Number: 80}},
		Endpoints: []mesh.Endpoint{{Address: c.address(3).String()}, {Address: "192.0.2.9"}},
	}, &mesh.Service{
		Ref: mesh.Ref{Kind: "ServiceEntry", Namespace: "shop", Name: "selected"}, Host: "selected.example.com", Ports: []mesh.Port{{Name: "http", Number: 80}},
		Selector: map[string]string{"app": "s4"},
	})
	c.parts.PeerAuth = []*mesh.PeerAuthentication{{Ref: mesh.Ref{Kind: "PeerAuthentication", Namespace: "shop", Name: "p"}, Selector: map[string]string{"version": "v1"}, Mode: seinev1.MtlsMode_MTLS_DISABLE}}
	return c
}

// address is one of few, so that several pods have the same.
func (c *changing) address(i int) netip.Addr {
	switch {
	case i%7 == 6:
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) // outside of the prefixes
	case i%5 == 4:
		return netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
}

// change makes one change.
func (c *changing) change(p *mesh.Patch) {
	if c.rng.IntN(3) == 0 { // what a service's slices list
		key := fmt.Sprintf("shop/s%d", c.rng.IntN(services))
		var list []mesh.Backend
		for range c.rng.IntN(4) {
			b := mesh.Backend{Address: c.address(c.rng.IntN(24)), Ports: map[string]uint32{"http": 8080}, Ready: c.rng.IntN(4) > 0}
			if w := c.pods[c.name()]; w != nil && c.rng.IntN(3) > 0 {
				b.Workload, b.Address = w.Key(), w.Addresses[0]
			}
			list = append(list, b)
		}
		c.backends[key] = list
		p.Listed = append(p.Listed, key)
		return
	}
	name := c.name()
	old := c.pods[name]
	if slices.ContainsFunc(p.Changed, func(x mesh.Change) bool {
		return x.Old != nil && x.Old.Instance == name || x.New != nil && x.New.Instance == name
	}) {
		return
	}
	delete(c.pods, name)
	var now *mesh.Workload
	if c.rng.IntN(4) > 0 {
		app := c.rng.IntN(services)
		now = &mesh.Workload{
			Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: name}, Instance: name, App: fmt.Sprintf("s%d", app), ServiceAccount: "a",
			Labels:    map[string]string{"app": fmt.Sprintf("s%d", app), "version": fmt.Sprintf("v%d", c.rng.IntN(2))},
			Addresses: []netip.Addr{c.address(c.rng.IntN(24))}, Sidecar: c.rng.IntN(2) == 0, Unhealthy: c.rng.IntN(4) == 0, Unheard: c.rng.IntN(4) == 0,
			Ports: map[string]uint32{"web": uint32(8080 + c.rng.IntN(2))}, HostNetwork: c.rng.IntN(9) == 0,
		}
		c.pods[name] = now
	}
	if old != nil || now != nil {
		p.Changed = append(p.Changed, mesh.Change{Old: old, New: now})
	}
}

func (c *changing) name() string { return fmt.Sprintf("p%d", c.rng.IntN(16)) }

func (c *changing) workloads() (out []*mesh.Workload) {
	for _, w := range c.pods {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *mesh.Workload) int { return strings.Compare(a.Instance, b.Instance) })
	return out
}

// asked is every name that may mean something else when pods change.
func (c *changing) asked() map[string][]string {
	out := map[string][]string{seinev1.TypeSelf: {seinev1.SelfName}}
	for _, svc := range c.parts.Services {
		for _, p := range svc.Ports {
			key := seinev1.ServiceKey(svc.Host, p.Number)
			out[seinev1.TypeService] = append(out[seinev1.TypeService], key)
			out[seinev1.TypeEndpoint] = append(out[seinev1.TypeEndpoint], key+"/*")
			out[seinev1.TypeAnswer] = append(out[seinev1.TypeAnswer], fmt.Sprintf("http/%d/%s", p.Number, svc.Host), fmt.Sprintf("http/%d/%s", p.Number, svc.Name), fmt.Sprintf("tls/%d/%s", p.Number, svc.Host))
		}
	}
	for i := range 16 {
		out[seinev1.TypeAnswer] = append(out[seinev1.TypeAnswer], fmt.Sprintf("http/80/p%d.s0", i), fmt.Sprintf("http/80/p%d.s0.shop.svc.cluster.local", i))
		out[seinev1.TypeEndpoint] = append(out[seinev1.TypeEndpoint], fmt.Sprintf("p%d.shop.pod.cluster.local/8080/*", i))
	}
	for i := range 24 {
		a := netip.AddrPortFrom(c.address(i), 8080)
		out[seinev1.TypeAnswer] = append(out[seinev1.TypeAnswer], "addr/"+a.String(), fmt.Sprintf("http/8080/%s", a.Addr()))
	}
	for i := range services {
		out[seinev1.TypeAnswer] = append(out[seinev1.TypeAnswer], fmt.Sprintf("addr/10.96.0.%d:80", i))
	}
	return out
}

func told(s *mesh.Snapshot, w *mesh.Workload, typeURL, name string) string {
	text := func(m proto.Message) string {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	switch typeURL {
	case seinev1.TypeSelf:
		return text(Self(s, w))
	case seinev1.TypeAnswer:
		return text(Answer(s, w, name))
	case seinev1.TypeService:
		if m := Service(s, w, name); m != nil {
			return text(m)
		}
		return "none"
	}
	out := ""
	for _, e := range Endpoints(s, w, strings.TrimSuffix(name, "/*")) {
		out += text(e) + "\n"
	}
	return out
}

// TestReached: a patched Snapshot says what one that is made anew says, and what
// Reached does not name is what it was.
func TestReached(t *testing.T) {
	rounds := uint64(40)
	if testing.Short() {
		rounds = 5
	}
	spared, reached := 0, 0
	for seed := range rounds {
		c := newChanging(seed)
		c.parts.Backends = map[string][]mesh.Backend{}
		before := mesh.New(1, c.parts)
		for step := range 12 {
			p := mesh.Patch{}
			for range 1 + c.rng.IntN(4) {
				c.change(&p)
			}
			p.Workloads, p.Backends = c.workloads(), map[string][]mesh.Backend{}
			for k, v := range c.backends {
				p.Backends[k] = v
			}
			after := before.Patched(uint64(step+2), p)
			c.parts.Workloads, c.parts.Backends = p.Workloads, p.Backends
			anew := mesh.New(uint64(step+2), c.parts)
			caller := &mesh.Workload{Ref: mesh.Ref{Kind: "Pod", Namespace: "shop", Name: "caller"}, Instance: "caller", App: "caller", Labels: map[string]string{"app": "caller"}, ServiceAccount: "caller"}
			for _, w := range append([]*mesh.Workload{caller}, p.Workloads...) {
				_, changed := after.Delta.Workloads[w.Key()]
				for typeURL, names := range c.asked() {
					if w != caller && typeURL != seinev1.TypeSelf {
						continue
					}
					for _, name := range names {
						now, want := told(after, w, typeURL, name), told(anew, w, typeURL, name)
						if now != want {
							t.Fatalf("seed %d, step %d: %s %s for %s, patched:\n%q\nanew:\n%q", seed, step, typeURL, name, w.Instance, now, want)
						}
						if Reached(after, after.Delta, w, typeURL, name) {
							reached++
							continue
						}
						spared++
						if changed {
							t.Fatalf("seed %d, step %d: %s has changed, and is not reached", seed, step, w.Instance)
						}
						if was := told(before, w, typeURL, name); was != now {
							t.Fatalf("seed %d, step %d: %s %s for %s is not reached, and yet another: changed %+v, listed %v\n%q\nwas\n%q", seed, step, typeURL, name, w.Instance, p.Changed, p.Listed, now, was)
						}
					}
				}
			}
			before = after
		}
	}
	if spared < reached || reached == 0 {
		t.Errorf("%d reached, %d not", reached, spared)
	}
}
