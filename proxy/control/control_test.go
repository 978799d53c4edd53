package control

import (
	"crypto/tls"
	"fmt"
	"sync"
	"testing"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/discovery/discoverytest"
)

func TestOnDemand(t *testing.T) {
	cp := newControlPlane(t)
	c := &content{}
	for i := range 1000 {
		c.add(fmt.Sprintf("s%d", i), "v1")
	}
	cp.publish(c)
	cp.start()
	p := cp.client(Options{})
	<-p.Ready()
	if tab := p.Table(); len(tab.Answers) != 0 || len(tab.Clusters) != 0 {
		t.Fatalf("something was there before it was wanted")
	}
	tab := p.want("http/80/s7", "http/80/s8", "http/80/nobody")
	if got := tab.Cluster(fqdn("s7")+"/80", "v1"); got == nil || len(got.Endpoints) != 2 {
		t.Errorf("s7's v1: %+v", got)
	}
	if got := tab.Cluster(fqdn("s7")+"/80", ""); got == nil || len(got.Endpoints) != 4 {
		t.Errorf("s7: %+v", got)
	}
	if tab.Answers["http/80/nobody"].Proto.Kind != seinev1.Answer_UNKNOWN {
		t.Errorf("nobody: %v", tab.Answers["http/80/nobody"].Proto)
	}
	if len(tab.Answers) != 3 || len(tab.Clusters) != 2 {
		t.Errorf("%d answers and %d services are held", len(tab.Answers), len(tab.Clusters))
	}
	if s := p.Stats(); s.Services != 2 || s.Endpoints != 8 || s.Unknown != 1 || s.Rejected != 0 || !s.Connected {
		t.Errorf("%+v", s)
	}
	// seined, too, holds for this proxy what it asked for and nothing else.
	state := cp.server.Proxies()[0]
	names := 0
	for _, ty := range state.Types {
		names += len(ty.Names)
	}
	if names != 1+3+2+2 {
		t.Errorf("subscribed: %+v", state.Types)
	}
}

func TestUnchangedPiecesKeepTheirPointers(t *testing.T) {
	cp := newControlPlane(t)
	make := func() *content { return (&content{}).add("a", "v1", "v2").add("b", "v1") }
	cp.publish(make())
	cp.start()
	p := cp.client(Options{})
	before := p.want("http/80/a", "http/80/b")
	next := make()
	key := fqdn("a") + "/80"
	for _, e := range next.endpoints[key] {
		if e.Labels["version"] == "v2" {
			e.Weight = 3
			break
		}
	}
	g := cp.publish(next)
	after := p.until("the change", func(t *decide.Table) bool { return t.Generation == g })
	if before.Answers["http/80/a"] != after.Answers["http/80/a"] || before.Self != after.Self {
		t.Error("an answer or Self changed its pointer")
	}
	for _, same := range []struct{ key, subset string }{{key, "v1"}, {fqdn("b") + "/80", ""}, {fqdn("b") + "/80", "v1"}} {
		if before.Cluster(same.key, same.subset) != after.Cluster(same.key, same.subset) {
			t.Errorf("cluster %s %q changed its pointer", same.key, same.subset)
		}
	}
	b, a := before.Cluster(key, "v2"), after.Cluster(key, "v2")
	if b == a || b.Service != a.Service {
		t.Error("v2 did not change, or its service did")
	}
	changed := 0
	for i := range a.Endpoints {
		if a.Endpoints[i] != b.Endpoints[i] {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("%d endpoints of v2 changed", changed)
	}
}

// A route and the subsets that it names move in one step, also where one is
// taken away and where a service is named for the first time.
func TestRouteAndSubsetsMoveTogether(t *testing.T) {
	cp := newControlPlane(t)
	c := (&content{}).add("a", "v1")
	c.answers["http/80/a"] = routes(destination("a", "v1", 1))
	cp.publish(c)
	cp.start()
	p := cp.client(Options{})
	check := func(tab *decide.Table) {
		a := tab.Answers["http/80/a"]
		if a == nil {
			return
		}
		for _, d := range a.Proto.Http[0].Destinations {
			if c := tab.Cluster(seinev1.ServiceKey(d.Host, d.Port), d.Subset); c == nil || len(c.Endpoints) == 0 {
				t.Errorf("generation %d: the route names %s %s, which has nothing", tab.Generation, d.Host, d.Subset)
			}
		}
	}
	p.Notify(check)
	p.want("http/80/a")
	for i := range 40 {
		v := fmt.Sprintf("w%d", i)
		next := (&content{}).add("a", v)
		next.answers["http/80/a"] = routes(destination("a", v, 1))
		if i%3 == 0 { // to a service that was never named before, while the old one goes
			next = (&content{}).add("b"+v, v)
			next.answers["http/80/a"] = routes(destination("b"+v, v, 1))
		}
		g := cp.publish(next)
		p.until(v, func(t *decide.Table) bool {
			a := t.Answers["http/80/a"]
			return t.Generation == g && a.Proto.Http[0].Destinations[0].Subset == v
		})
	}
}

func TestGoneServiceIsSaid(t *testing.T) {
	cp := newControlPlane(t)
	c := (&content{}).add("a")
	c.answers["http/80/x"] = routes(destination("nowhere", "", 1))
	cp.publish(c)
	cp.start()
	p := cp.client(Options{})
	tab := p.want("http/80/x", "http/80/a")
	if m := tab.Clusters[fqdn("nowhere")+"/80"]; m == nil || len(m) != 0 {
		t.Errorf("nowhere is %v", m)
	}
	g := cp.publish(&content{answers: c.answers})
	tab = p.until("a is gone", func(t *decide.Table) bool { return t.Generation == g })
	if m := tab.Clusters[fqdn("a")+"/80"]; m == nil || len(m) != 0 {
		t.Errorf("a is %v", m)
	}
	g = cp.publish(c)
	tab = p.until("a is back", func(t *decide.Table) bool { return t.Generation == g })
	if len(tab.Cluster(fqdn("a")+"/80", "").Endpoints) != 2 {
		t.Error("a came back without its endpoints")
	}
}

func TestControlPlaneAway(t *testing.T) {
	cp := newControlPlane(t)
	make := func() *content { return (&content{}).add("a", "v1").add("b").add("c") }
	cp.publish(make())
	cp.start()
	p := cp.client(Options{})
	before := p.want("http/80/a", "http/80/b", "http/80/nobody")
	cp.stop()
	eventually(t, "noticed", func() bool { ok, _ := p.Connected(); return !ok })
	if p.Table() != before {
		t.Error("the table changed when the control plane went away")
	}
	if !p.Want("http/80/c") {
		t.Error("a name is not waited for while the control plane is away")
	}
	publishes := p.Stats().Publishes
	cp.gen-- // nothing is new
	cp.gen++
	cp.start()
	after := p.want("http/80/c")
	if ok, _ := p.Connected(); !ok {
		t.Error("not connected")
	}
	for name, a := range before.Answers {
		if after.Answers[name] != a {
			t.Errorf("%s was sent again or lost", name)
		}
	}
	for key, m := range before.Clusters {
		for subset, c := range m {
			if after.Clusters[key][subset] != c {
				t.Errorf("%s %q was sent again or lost", key, subset)
			}
		}
	}
	if n := p.Stats().Publishes - publishes; n != 1 {
		t.Errorf("%d tables were made for one name", n)
	}
	if s := p.Stats(); s.Connects < 2 || s.LastAck.IsZero() {
		t.Errorf("%+v", s)
	}
	cp.stop()
	next := make()
	next.endpoints[fqdn("a")+"/80"] = next.endpoints[fqdn("a")+"/80"][1:]
	delete(next.services, fqdn("b")+"/80")
	g := cp.publish(next)
	cp.start()
	tab := p.until("what changed meanwhile", func(t *decide.Table) bool { return t.Generation == g })
	if len(tab.Cluster(fqdn("a")+"/80", "").Endpoints) != 3 || len(tab.Clusters[fqdn("b")+"/80"]) != 0 {
		t.Error("what went while away is still there")
	}
}

func TestUnknownNamesAreBounded(t *testing.T) {
	cp := newControlPlane(t)
	cp.publish((&content{}).add("a"))
	cp.start()
	p := cp.client(Options{Unknown: 20, Answers: 50, Burst: 400, Rate: .001})
	p.want("http/80/a")
	refused := 0
	for i := range 1000 {
		if !p.Want(fmt.Sprintf("http/80/x%d", i)) {
			refused++
		}
		p.Use("http/80/a").Touch()
	}
	if refused < 600 {
		t.Errorf("only %d of 1,000 invented names were refused", refused)
	}
	eventually(t, "all answered", func() bool { s := p.Stats(); return s.Pending == 0 && s.Unknown <= 20 })
	if s := p.Stats(); s.Answers > 50 || s.Refused != uint64(refused) {
		t.Errorf("%+v", s)
	}
	if tab := p.Table(); tab.Answers["http/80/a"] == nil {
		t.Error("an answer in use was pushed out by invented names")
	}
	eventually(t, "seined holds no more", func() bool {
		state := cp.server.Proxies()
		return len(state) == 1 && len(state[0].Types[3].Names) <= 51
	})
	for _, bad := range []string{"", "self", "http/80/Upper", "http/80/a/b", "http/80/" + string(make([]byte, 600))} {
		if p.Want(bad) {
			t.Errorf("%q is asked for", bad)
		}
	}
}

func TestIdleAnswersAreGivenBack(t *testing.T) {
	cp := newControlPlane(t)
	cp.publish((&content{}).add("a").add("b"))
	cp.start()
	p := cp.client(Options{Idle: 300 * time.Millisecond})
	p.want("http/80/a", "http/80/b")
	use := p.Use("http/80/a")
	eventually(t, "b is given back", func() bool {
		use.Touch()
		tab := p.Table()
		return tab.Answers["http/80/b"] == nil && len(tab.Clusters) == 1
	})
	if p.Table().Answers["http/80/a"] == nil {
		t.Fatal("a, which is in use, was given back")
	}
	if p.Use("http/80/b") != nil || p.Use("http/80/a") != use {
		t.Error("marks of use")
	}
	eventually(t, "seined knows", func() bool {
		state := cp.server.Proxies()
		n := 0
		for _, ty := range state[0].Types {
			n += len(ty.Names)
		}
		use.Touch()
		return n == 1+1+1+1
	})
	// And it can be had again.
	tab := p.want("http/80/b")
	if len(tab.Cluster(fqdn("b")+"/80", "").Endpoints) != 2 {
		t.Error("b came back without its endpoints")
	}
}

func TestBadResourceIsRefusedAndTheRestHolds(t *testing.T) {
	cp := newControlPlane(t)
	make := func() *content { return (&content{}).add("a").add("b") }
	cp.publish(make())
	cp.start()
	p := cp.client(Options{})
	before := p.want("http/80/a", "http/80/b")
	next := make()
	next.answers["http/80/a"].Http[0].Match = []*seinev1.HttpMatch{{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Regex{Regex: "("}}}}
	next.answers["http/80/b"].Http[0].Name = "changed"
	cp.publish(next)
	after := p.until("b changed", func(t *decide.Table) bool { return t.Answers["http/80/b"].Proto.Http[0].Name == "changed" })
	if after.Answers["http/80/a"] != before.Answers["http/80/a"] {
		t.Error("the bad answer was taken")
	}
	if s := p.Stats(); s.Rejected != 1 {
		t.Errorf("%+v", s)
	}
	eventually(t, "shown by seined", func() bool {
		r := cp.server.Proxies()[0].Rejected
		return len(r) == 1 && r[0].Name == "http/80/a" && r[0].Source != "" && r[0].Message != ""
	})
}

func TestChurn(t *testing.T) {
	cp := newControlPlane(t)
	at := func(g int) *content {
		c := &content{}
		for i := range 12 {
			if (i+g)%5 == 0 {
				continue
			}
			c.add(fmt.Sprintf("s%d", i), fmt.Sprintf("v%d", g%3))
			c.answers[fmt.Sprintf("http/80/s%d", i)] = routes(destination(fmt.Sprintf("s%d", i), "", 1), destination(fmt.Sprintf("s%d", (i*7+g)%12), "", 1))
		}
		return c
	}
	cp.publish(at(0))
	cp.start()
	p := cp.client(Options{Idle: 50 * time.Millisecond}) // every table is checked by whole
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			for i := w; ; i++ {
				name := fmt.Sprintf("http/80/s%d", i%14)
				p.Want(name)
				p.Use(name).Touch()
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	for g := 1; g < 60; g++ {
		want := cp.publish(at(g))
		if g%20 == 0 {
			cp.stop()
			cp.start()
		}
		p.until(fmt.Sprint("generation ", want), func(t *decide.Table) bool { return t.Generation+3 >= want })
	}
	close(stop)
	wg.Wait()
	last := cp.gen
	eventually(t, "settled", func() bool {
		s := cp.server.Proxies()
		return len(s) == 1 && s[0].Generation == last && s[0].Rejected == nil
	})
}

func TestCertifiedAndOptions(t *testing.T) {
	for _, o := range []Options{{}, {TLS: discoverytest.NewPKI(t).Client("-")}, {TLS: discoverytest.NewPKI(t).Client("-"), Address: "a:1", Node: "x"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	cp := newControlPlane(t)
	cp.publish(&content{})
	cp.start()
	certified := make(chan struct{})
	p := cp.client(Options{Certified: certified})
	if p.Want("http/80/a"); p.Table() != nil || cp.dials.Load() != 0 {
		t.Error("dialled without a certificate")
	}
	close(certified)
	<-p.Ready()
	p.want("http/80/a")
}

func TestNothingIsAllocatedForARequest(t *testing.T) {
	cp := newControlPlane(t)
	cp.publish((&content{}).add("a"))
	cp.start()
	p := cp.client(Options{})
	p.want("http/80/a")
	use := p.Use("http/80/a")
	if n := testing.AllocsPerRun(100, func() {
		use.Touch()
		if p.Table().Answers["http/80/a"] == nil || !p.Want("http/80/a") || p.Use("http/80/a") != use {
			t.Fatal("not there")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A stream ends with its certificate; the next one comes with the new one.
func TestStreamsFollowTheCertificate(t *testing.T) {
	cp := newControlPlane(t)
	cp.publish((&content{}).add("a"))
	cp.start()
	o := Options{}
	p := cp.clientWith(o, func(conf *tls.Config) {
		conf.Certificates = nil
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c := cp.pki.Leaf(nodeID, 2*time.Second)
			return &c, nil
		}
	})
	before := p.want("http/80/a")
	eventually(t, "a second stream", func() bool { s := p.Stats(); return s.Connects >= 2 && s.Connected })
	if p.Table() != before {
		t.Error("a new stream made a new table of nothing new")
	}
}
