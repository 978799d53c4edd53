package plan

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

func ptr[T any](v T) *T { return &v }

func TestTracing(t *testing.T) {
	provider := func(name string) *mesh.TracingProvider {
		return &mesh.TracingProvider{Collector: &seinev1.Collector{Name: name, Host: name, Port: 1}, W3C: true}
	}
	providers := map[string]*mesh.TracingProvider{"a": provider("a"), "b": provider("b")}
	telemetry := func(namespace string, selector map[string]string, rules ...mesh.TracingRule) *mesh.Telemetry {
		return &mesh.Telemetry{Ref: mesh.Ref{Kind: "Telemetry", Namespace: namespace, Name: "t"}, Selector: selector, Tracing: rules}
	}
	both := func(r mesh.TracingRule) mesh.TracingRule { r.Client, r.Server = true, true; return r }
	cart := map[string]string{"app": "cart"}
	none := "none"
	for _, k := range []struct {
		name           string
		tracing        *mesh.Tracing
		telemetries    []*mesh.Telemetry
		own            *mesh.ProxyTracing
		client, server string
		share          float64 // of the client
	}{
		{"nothing", nil, nil, nil, none, none, 0},
		{"a default provider", &mesh.Tracing{Providers: providers, Default: "a"}, nil, nil, "a", "a", 1},
		{"a provider that nobody names", &mesh.Tracing{Providers: providers}, nil, nil, none, none, 0},
		{"enableTracing", &mesh.Tracing{Legacy: provider("z")}, nil, nil, "z", "z", 1},
		{"a default provider beside enableTracing", &mesh.Tracing{Providers: providers, Default: "a", Legacy: provider("z")}, nil, nil, "a", "a", 1},
		{"a Telemetry ends what enableTracing began", &mesh.Tracing{Providers: providers, Legacy: provider("z")},
			[]*mesh.Telemetry{telemetry("shop", nil, both(mesh.TracingRule{Sampling: ptr(7.)}))}, nil, none, none, 0},
		{"defaultConfig's sampling", &mesh.Tracing{Providers: providers, Default: "a", ProxyTracing: mesh.ProxyTracing{Sampling: ptr(9.)}}, nil, nil, "a", "a", 9},
		{"the pod's sampling", &mesh.Tracing{Providers: providers, Default: "a", ProxyTracing: mesh.ProxyTracing{Sampling: ptr(9.)}}, nil, &mesh.ProxyTracing{Sampling: ptr(3.)}, "a", "a", 3},
		{"the pod's zipkin", &mesh.Tracing{Legacy: provider("z")}, nil, &mesh.ProxyTracing{Zipkin: provider("own")}, "own", "own", 1},
		{"levels", &mesh.Tracing{Providers: providers, Default: "a"}, []*mesh.Telemetry{
			telemetry("shop", cart, both(mesh.TracingRule{Sampling: ptr(30.)})),
			telemetry("shop", nil, both(mesh.TracingRule{Sampling: ptr(20.), Provider: "b"})),
			telemetry("seine-system", nil, both(mesh.TracingRule{Sampling: ptr(10.)})),
		}, nil, "b", "b", 30},
		{"others' levels", &mesh.Tracing{Providers: providers, Default: "a"}, []*mesh.Telemetry{
			telemetry("shop", map[string]string{"app": "other"}, both(mesh.TracingRule{Sampling: ptr(30.)})),
			telemetry("elsewhere", nil, both(mesh.TracingRule{Sampling: ptr(20.)})),
			telemetry("seine-system", cart, both(mesh.TracingRule{Sampling: ptr(10.)})),
		}, nil, "a", "a", 1},
		{"the first of a level", &mesh.Tracing{Providers: providers, Default: "a"}, []*mesh.Telemetry{
			telemetry("shop", nil, both(mesh.TracingRule{Sampling: ptr(5.)})), telemetry("shop", nil, both(mesh.TracingRule{Sampling: ptr(6.)})),
		}, nil, "a", "a", 5},
		{"sides", &mesh.Tracing{Providers: providers}, []*mesh.Telemetry{
			telemetry("shop", nil, mesh.TracingRule{Client: true, Provider: "b", Sampling: ptr(0.)}),
		}, nil, "b", none, 0},
		{"not reported", &mesh.Tracing{Providers: providers, Default: "a"}, []*mesh.Telemetry{
			telemetry("shop", nil, mesh.TracingRule{Server: true, Disabled: ptr(true)}),
		}, nil, "a", "told on", 1},
		{"an unknown provider", &mesh.Tracing{Providers: providers, Default: "a"}, []*mesh.Telemetry{
			telemetry("shop", nil, both(mesh.TracingRule{Provider: "c"})),
		}, nil, none, none, 0},
	} {
		t.Run(k.name, func(t *testing.T) {
			w := &mesh.Workload{Ref: mesh.Ref{Namespace: "shop"}, Instance: "cart-1", Labels: cart, Tracing: k.own}
			s := mesh.New(1, mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: []*mesh.Workload{w}, Tracing: k.tracing, Telemetries: k.telemetries})
			client, server := tracing(s, w)
			say := func(tr *seinev1.Tracing) string {
				switch {
				case tr == nil:
					return none
				case tr.Collector == nil:
					return "told on"
				}
				return tr.Collector.Name
			}
			if say(client) != k.client || say(server) != k.server || client.GetSampling() != k.share {
				t.Errorf("client %s, server %s, share %g", say(client), say(server), client.GetSampling())
			}
		})
	}
}

func TestTracingLate(t *testing.T) {
	w := &mesh.Workload{Ref: mesh.Ref{Namespace: "shop"}, Instance: "cart-1"}
	ask := func(rules ...mesh.TracingRule) *seinev1.Tracing {
		parts := mesh.Parts{Settings: mesh.DefaultSettings(), Workloads: []*mesh.Workload{w}, Tracing: &mesh.Tracing{
			Providers: map[string]*mesh.TracingProvider{"a": {Collector: &seinev1.Collector{Name: "a"}}}, Default: "a",
		}}
		if rules != nil {
			parts.Telemetries = []*mesh.Telemetry{{Ref: mesh.Ref{Namespace: "shop"}, Tracing: rules}}
		}
		client, _ := tracing(mesh.New(1, parts), w)
		return client
	}
	if c := ask(); !c.KeepErrors || c.KeepSlower.AsDuration() != time.Second {
		t.Errorf("by default %v", c)
	}
	if c := ask(mesh.TracingRule{Client: true, KeepErrors: ptr(false), KeepSlower: durationpb.New(0)}); c.KeepErrors || c.KeepSlower != nil {
		t.Errorf("switched off %v", c)
	}
	if c := ask(mesh.TracingRule{Client: true, KeepSlower: durationpb.New(time.Minute)}); !c.KeepErrors || c.KeepSlower.AsDuration() != time.Minute {
		t.Errorf("a minute %v", c)
	}
}
