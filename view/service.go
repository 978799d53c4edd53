package view

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/stat"
)

// Services is the list of services.
type Services struct {
	At       time.Time `json:"at"`
	Services []Service `json:"services"`
	LeftOut  int       `json:"left_out"`
}

// Service is one service and its versions.
type Service struct {
	Host      string    `json:"host"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	External  bool      `json:"external"`
	Ports     []Port    `json:"ports"`
	Addresses []string  `json:"addresses"`
	Instances int       `json:"instances"`
	Ready     int       `json:"ready"`
	Health    Health    `json:"health"`
	MTLS      string    `json:"mtls"`
	Versions  []Version `json:"versions"`
	stat.Traffic
}

// Port is one of a service.
type Port struct {
	Name     string `json:"name,omitempty"`
	Number   uint32 `json:"number"`
	Protocol string `json:"protocol"`
}

// ServicePage is everything about one service.
type ServicePage struct {
	At time.Time `json:"at"`
	Service
	Callers   []Edge               `json:"callers"`
	Routes    []Route              `json:"routes"`
	Breakers  []Breaker            `json:"breakers"`
	Ejected   []Ejection           `json:"ejected"`
	Diagnoses []diagnose.Diagnosis `json:"diagnoses"`
}

// Services lists those of a namespace, "" of all.
func (m *Moment) Services(namespace string) *Services {
	x := m.index()
	out := &Services{At: m.At, Services: []Service{}}
	for _, svc := range x.sortedServices() {
		if in(namespace, svc.Namespace) {
			out.Services = append(out.Services, x.service(svc))
		}
	}
	out.Services, out.LeftOut = cut(out.Services, maxList)
	return out
}

// Service is the page of one service; nil: there is none.
func (m *Moment) Service(host string, refused Refusals) *ServicePage {
	x := m.index()
	svc := x.services[host]
	if svc == nil {
		return nil
	}
	out := &ServicePage{At: m.At, Service: x.service(svc), Diagnoses: []diagnose.Diagnosis{}, Ejected: []Ejection{}}
	out.Callers, _ = cut(x.edges(func(f *stat.Flow) bool { return f.Service == host }), maxWithin)
	out.Callers = orEmpty(out.Callers)
	out.Routes, _ = cut(x.routesOf(svc), maxWithin)
	out.Routes = orEmpty(out.Routes)
	out.Breakers = orEmpty(x.breakersOf(svc, refused))
	for i := range x.Ejected {
		if e := &x.Ejected[i]; e.Service == host && len(out.Ejected) < maxWithin {
			out.Ejected = append(out.Ejected, ejectionOf(e))
		}
	}
	for _, d := range x.Diagnoses {
		if d.Service == host {
			out.Diagnoses = append(out.Diagnoses, d)
		}
	}
	return out
}

func (x *index) service(svc *mesh.Service) Service {
	n := x.serviceNode(svc.Host, svc)
	out := Service{Host: svc.Host, Namespace: svc.Namespace, Name: svc.Name, External: svc.External, Ports: []Port{}, Addresses: []string{},
		Instances: n.Instances, Ready: n.Ready, Health: n.Health, MTLS: n.MTLS, Traffic: n.Traffic}
	for _, p := range svc.Ports {
		out.Ports = append(out.Ports, Port{p.Name, p.Number, protocolNames[p.Protocol]})
	}
	for _, a := range svc.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	out.Versions = versions(x.byService[svc.Host], x.wantedOf("", svc.Host))
	for _, w := range x.Snapshot.Members(svc) {
		version := versionOf(w)
		i := slices.IndexFunc(out.Versions, func(v Version) bool { return v.Version == version })
		if i < 0 {
			out.Versions = append(out.Versions, Version{Version: version, MTLS: stat.MTLSUnknown})
			i = len(out.Versions) - 1
		}
		v := &out.Versions[i]
		if v.Instances == nil {
			v.Instances, v.Ready = new(int), new(int)
		}
		v.Workload = cmp.Or(v.Workload, ID(w.Namespace, appOf(w)))
		*v.Instances++
		if !w.Unhealthy {
			*v.Ready++
		}
	}
	slices.SortFunc(out.Versions, func(a, b Version) int { return strings.Compare(a.Version, b.Version) })
	return out
}
