package view

import (
	"slices"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/plan"
	"github.com/seinemesh/seine/stat"
)

// Workloads is the list of workloads.
type Workloads struct {
	At        time.Time  `json:"at"`
	Workloads []Workload `json:"workloads"`
	LeftOut   int        `json:"left_out"`
}

// Workload is the instances of one application.
type Workload struct {
	ID             string       `json:"id"`
	Namespace      string       `json:"namespace"`
	Name           string       `json:"name"`
	Version        string       `json:"version"`
	ServiceAccount string       `json:"service_account"`
	Identity       string       `json:"identity,omitempty"`
	Services       []string     `json:"services"`
	Instances      int          `json:"instances"`
	Ready          int          `json:"ready"`
	Sidecars       int          `json:"sidecars"`
	Health         Health       `json:"health"`
	Inbound        stat.Traffic `json:"inbound"`
	Outbound       stat.Traffic `json:"outbound"`
}

// WorkloadPage is everything about one workload.
type WorkloadPage struct {
	At time.Time `json:"at"`
	Workload
	InstanceList []Instance           `json:"instance_list"`
	Callers      []Edge               `json:"callers"`
	Calls        []Edge               `json:"calls"`
	Authz        *Authz               `json:"authz"`
	Diagnoses    []diagnose.Diagnosis `json:"diagnoses"`
}

// Instance is one pod or process.
type Instance struct {
	ID      string `json:"id"`
	Address string `json:"address,omitempty"`
	Node    string `json:"node,omitempty"`
	Ready   bool   `json:"ready"`
	Sidecar bool   `json:"sidecar"`
}

// Workloads lists those of a namespace, "" of all.
func (m *Moment) Workloads(namespace string) *Workloads {
	x := m.index()
	to, from := map[string][]*stat.Flow{}, map[string][]*stat.Flow{}
	for i := range x.Flows {
		f := &x.Flows[i]
		to[partyID(f.Destination)] = append(to[partyID(f.Destination)], f)
		from[partyID(f.Source)] = append(from[partyID(f.Source)], f)
	}
	out := &Workloads{At: m.At, Workloads: []Workload{}}
	for _, w := range x.ordered {
		if in(namespace, w.instances[0].Namespace) {
			out.Workloads = append(out.Workloads, x.workload(w, to[w.id], from[w.id]))
		}
	}
	out.Workloads, out.LeftOut = cut(out.Workloads, maxList)
	return out
}

func (x *index) workload(w *workload, to, from []*stat.Flow) Workload {
	first := w.instances[0]
	got, sent := sumOf(to), sumOf(from)
	out := Workload{ID: w.id, Namespace: first.Namespace, Name: appOf(first), Version: w.version, ServiceAccount: w.account,
		Services: []string{}, Instances: len(w.instances), Ready: w.ready, Sidecars: w.sidecars,
		Inbound: got.Traffic(), Outbound: sent.Traffic()}
	if w.sidecars > 0 {
		out.Identity = mesh.SPIFFE(x.Snapshot.Settings.TrustDomain, first.Namespace, first.ServiceAccount)
	}
	for _, svc := range w.services {
		out.Services = append(out.Services, svc.Host)
	}
	slow := slices.ContainsFunc(x.Diagnoses, func(d diagnose.Diagnosis) bool {
		return d.Workload.Namespace == first.Namespace && d.Workload.Workload == appOf(first)
	})
	both := *got
	if !got.Active() {
		both = *sent
	}
	out.Health = healthOf(&both, len(w.instances), w.ready, slow, x.ejectedInstance(w))
	return out
}

func (x *index) ejectedInstance(w *workload) bool {
	return slices.ContainsFunc(x.Ejected, func(e stat.Ejected) bool {
		return slices.ContainsFunc(w.instances, func(i *mesh.Workload) bool {
			return e.Endpoint == i.Instance && slices.ContainsFunc(w.services, func(s *mesh.Service) bool { return s.Host == e.Service })
		})
	})
}

// Workload is the page of one workload; nil: there is none.
func (m *Moment) Workload(id string) *WorkloadPage {
	x := m.index()
	w := x.workloads[id]
	if w == nil {
		return nil
	}
	var to, from []*stat.Flow
	for i := range x.Flows {
		if f := &x.Flows[i]; partyID(f.Destination) == id {
			to = append(to, f)
		}
		if f := &x.Flows[i]; partyID(f.Source) == id {
			from = append(from, f)
		}
	}
	out := &WorkloadPage{At: m.At, Workload: x.workload(w, to, from), InstanceList: []Instance{}, Authz: x.authz(w), Diagnoses: []diagnose.Diagnosis{}}
	for _, i := range w.instances {
		n := Instance{ID: i.Key(), Node: i.Node, Ready: !i.Unhealthy, Sidecar: i.Sidecar}
		if len(i.Addresses) > 0 {
			n.Address = i.Addresses[0].String()
		}
		out.InstanceList = append(out.InstanceList, n)
	}
	out.InstanceList, _ = cut(out.InstanceList, maxWithin)
	out.Callers, _ = cut(x.edges(func(f *stat.Flow) bool { return partyID(f.Destination) == id }), maxWithin)
	out.Calls, _ = cut(x.edges(func(f *stat.Flow) bool { return partyID(f.Source) == id }), maxWithin)
	out.Callers, out.Calls = orEmpty(out.Callers), orEmpty(out.Calls)
	for _, d := range x.Diagnoses {
		if ID(d.Workload.Namespace, d.Workload.Workload) == id {
			out.Diagnoses = append(out.Diagnoses, d)
		}
	}
	return out
}

// Authz is who may reach a workload.
type Authz struct {
	Workload      string       `json:"workload"`
	Identity      string       `json:"identity,omitempty"`
	Sidecar       bool         `json:"sidecar"`
	Ports         []AuthzPort  `json:"ports"`
	Default       AuthzMode    `json:"default"` // of every other port
	Authorization AuthzPolicy  `json:"authorization"`
	Callers       []AuthzParty `json:"callers"`
}

// AuthzMode is in which mode connections are received, and what says so.
type AuthzMode struct {
	Mode   string `json:"mode"` // STRICT, PERMISSIVE, DISABLE
	Source string `json:"source"`
}

// AuthzPort is that of one port.
type AuthzPort struct {
	Port    uint32 `json:"port"`
	Service string `json:"service,omitempty"`
	AuthzMode
}

// AuthzPolicy says whether policies of who may do what are in force.
type AuthzPolicy struct {
	Supported bool   `json:"supported"`
	Text      string `json:"text"`
}

// AuthzParty is somebody who calls.
type AuthzParty struct {
	Workload string `json:"workload"`
	Identity string `json:"identity,omitempty"` // "": without one, in plaintext
	MTLS     string `json:"mtls"`
	Seen     bool   `json:"seen"` // within the last seconds
}

// NoAuthorization is what there is to say where no policy holds.
const NoAuthorization = "No AuthorizationPolicy holds here: beyond the mTLS mode, whoever reaches a port may ask anything there"

// authorization names the policies that hold.
func authorization(list []*seinev1.AuthorizationPolicy) AuthzPolicy {
	if len(list) == 0 {
		return AuthzPolicy{Supported: true, Text: NoAuthorization}
	}
	text := "Policies that hold here: "
	for i, p := range list {
		if i > 0 {
			text += ", "
		}
		text += p.Id + " (" + p.Action.String()
		if p.DryRun {
			text += ", dry run"
		}
		text += ")"
	}
	return AuthzPolicy{Supported: true, Text: text}
}

// Authz answers who may reach a workload; nil: there is none.
func (m *Moment) Authz(id string) *Authz {
	x := m.index()
	if w := x.workloads[id]; w != nil {
		return x.authz(w)
	}
	return nil
}

func (x *index) authz(w *workload) *Authz {
	first := w.instances[0]
	self := plan.Self(x.Snapshot, first)
	out := &Authz{Workload: w.id, Sidecar: w.sidecars > 0, Ports: []AuthzPort{}, Callers: []AuthzParty{},
		Authorization: authorization(self.Authorization), Default: modeOf(self.DefaultMtls, self.DefaultMtlsSource)}
	if out.Sidecar {
		out.Identity = self.Workload.GetIdentity()
	} else {
		out.Default = AuthzMode{"DISABLE", "it has no sidecar: connections reach it as they come"}
		out.Authorization.Text = "It has no sidecar: no AuthorizationPolicy is enforced"
	}
	for _, p := range self.Inbound {
		port := AuthzPort{Port: p.Port, Service: p.Service, AuthzMode: out.Default}
		if out.Sidecar {
			port.AuthzMode = modeOf(p.Mtls, p.MtlsSource)
		}
		out.Ports = append(out.Ports, port)
	}
	for i := range x.Flows {
		f := &x.Flows[i]
		if partyID(f.Destination) != w.id {
			continue
		}
		c := AuthzParty{Workload: KindOutside, Identity: f.Source.Identity, MTLS: f.MTLS, Seen: f.Active()}
		if known(f.Source) {
			c.Workload = partyID(f.Source)
		}
		if i := slices.IndexFunc(out.Callers, func(o AuthzParty) bool { return o.Workload == c.Workload && o.Identity == c.Identity }); i >= 0 {
			out.Callers[i].Seen = out.Callers[i].Seen || c.Seen
		} else if len(out.Callers) < maxWithin {
			out.Callers = append(out.Callers, c)
		}
	}
	return out
}

func modeOf(m seinev1.MtlsMode, by *seinev1.Ref) AuthzMode {
	return AuthzMode{modeName(m), decide.Source(by)}
}
