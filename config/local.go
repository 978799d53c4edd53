package config

import (
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/seinemesh/seine/mesh"
)

const (
	localGroup  = "local.seine.dev"
	maxReplicas = 256
)

// localSpec is what a local Workload says.
type localSpec struct {
	Command        []string              `json:"command"`
	Replicas       *int                  `json:"replicas"`
	ServiceAccount string                `json:"serviceAccount"`
	Ports          portList              `json:"ports"`
	Env            map[string]scalarText `json:"env"`
	WorkingDir     string                `json:"workingDir"`
	Publish        []publishSpec         `json:"publish"`
}

// portList is decoded by hand: a port is a number or {name, port}.
type portList []any

type publishSpec struct {
	Port uint32     `json:"port"`
	To   scalarText `json:"to"`
}

type gatewaySpec struct {
	Publish []publishSpec `json:"publish"`
}

// pendingPublish waits until all services are known.
type pendingPublish struct {
	o    *object
	path string
	port uint32
	to   string
}

func (b *builder) local(o *object) {
	var spec localSpec
	if !b.goSpec(o, &spec) {
		return
	}
	d := &decoder{b: b, obj: o}
	l := &Local{
		Ref: o.ref, Labels: o.labels, Annotations: o.annotations, Command: spec.Command, Replicas: 1,
		ServiceAccount: firstOf(spec.ServiceAccount, "default"), Env: map[string]string{}, WorkingDir: spec.WorkingDir,
	}
	if _, err := introduced(o.annotations); err != nil {
		d.fail(codeInvalid, "metadata.annotations", nil, "%v", err)
	}
	if len(spec.Command) == 0 || spec.Command[0] == "" {
		d.fail(codeInvalid, "spec.command", nil, `a Workload must say what to run, such as command: ["./server", "--port=8080"]`)
	}
	if !validHost(o.ref.Name, false) || strings.Contains(o.ref.Name, ".") || len(o.ref.Name) > 50 {
		d.fail(codeInvalid, "metadata.name", nil, "must be at most 50 letters, digits and -")
	}
	if !validHost(l.ServiceAccount, false) {
		d.fail(codeInvalid, "spec.serviceAccount", nil, "%q is not a service account's name", clip(l.ServiceAccount))
	}
	if spec.Replicas != nil {
		l.Replicas = *spec.Replicas
		if l.Replicas < 0 || l.Replicas > maxReplicas {
			d.fail(codeInvalid, "spec.replicas", nil, "must be between 0 and %d (it is %d)", maxReplicas, l.Replicas)
		}
	}
	for _, k := range sortedKeys(spec.Env) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(string(spec.Env[k]), "\x00") {
			d.fail(codeInvalid, sub("spec.env", k), nil, "is no variable of an environment")
			continue
		}
		l.Env[k] = string(spec.Env[k])
	}
	if strings.Contains(l.WorkingDir, "\x00") {
		d.fail(codeInvalid, "spec.workingDir", nil, "is no path")
	}
	l.Ports = b.localPorts(d, o)
	if d.bad {
		return
	}
	b.result.Local = append(b.result.Local, l)
	b.pending(o, spec.Publish, l)
	ports := map[string]uint32{}
	for _, p := range l.Ports {
		if p.Name != "" {
			ports[p.Name] = p.Number
		}
	}
	for i := range l.Replicas {
		b.paper = append(b.paper, &mesh.Workload{
			Ref: o.ref, Instance: l.Instance(i + 1), App: l.Name, Labels: l.Labels, ServiceAccount: l.ServiceAccount,
			Ports: ports, Sidecar: true,
		})
	}
}

func (b *builder) localPorts(d *decoder, o *object) []LocalPort {
	n := child(child(o.tree(), "spec"), "ports")
	if isNull(n) {
		return nil
	}
	var out []LocalPort
	seen := map[uint32]bool{}
	names := map[string]bool{}
	d.sequence(n, "spec.ports", func(i int, c *yaml.Node) {
		at := item("spec.ports", i)
		var p struct {
			Name string `json:"name"`
			Port uint32 `json:"port"`
		}
		bad := d.bad
		if c.Kind == yaml.MappingNode {
			d.value(c, reflect.ValueOf(&p).Elem(), at, 0)
			at += ".port"
		} else {
			_, v, _ := d.integer(c, at, 32, true)
			p.Port = uint32(v)
		}
		switch {
		case d.bad && !bad:
		case p.Port < 1 || p.Port > 65535:
			d.fail(codeInvalid, at, nil, "a port must be between 1 and 65535 (it is %d)", p.Port)
		case seen[p.Port] || p.Name != "" && names[p.Name]:
			d.fail(codeInvalid, at, nil, "the port %s is written twice", portName(p.Name, p.Port))
		default:
			seen[p.Port], names[p.Name] = true, true
			out = append(out, LocalPort{p.Name, p.Port})
		}
	})
	return out
}

func (b *builder) localGateway(o *object) {
	var spec gatewaySpec
	if !b.goSpec(o, &spec) {
		return
	}
	if len(spec.Publish) == 0 {
		b.refuse(o, codeInvalid, "spec.publish", "a local Gateway must publish something, such as publish: [{port: 8080, to: frontend:80}]")
		return
	}
	b.pending(o, spec.Publish, nil)
}

func (b *builder) pending(o *object, list []publishSpec, l *Local) {
	for i, p := range list {
		path := item("spec.publish", i)
		switch {
		case p.Port < 1 || p.Port > 65535:
			b.refuse(o, codeInvalid, path+".port", "a port must be between 1 and 65535 (it is %d)", p.Port)
		case p.To == "" && l == nil:
			b.refuse(o, codeInvalid, path+".to", "must say which service the port leads to, such as frontend:80")
		default:
			b.publishes = append(b.publishes, pendingPublish{o, path, p.Port, string(p.To)})
		}
	}
}

// publish resolves the published ports against the services. A Workload that
// does not say where its port leads means the first service that selects it.
func (b *builder) publish() {
	seen := map[uint32]mesh.Ref{}
	for _, p := range b.publishes {
		if w, twice := seen[p.port]; twice {
			b.refuse(p.o, codePublishClash, p.path+".port", "the port %d is published by %s, too: choose another", p.port, name(w))
			continue
		}
		var service *mesh.Service
		host, port, _ := strings.Cut(p.to, ":")
		if p.to == "" {
			for _, s := range b.parts.Services {
				if s.Namespace == p.o.ref.Namespace && len(s.Selector) > 0 && mesh.Selects(s.Selector, p.o.labels) {
					service = s
					break
				}
			}
			if service == nil {
				b.refuse(p.o, codeNoHost, p.path, "no service selects this workload: say which one the port leads to, such as to: frontend:80")
				continue
			}
		} else if service = b.find(host, p.o.ref.Namespace); service == nil {
			b.refuse(p.o, codeNoHost, p.path+".to", "there is no service %q%s", clip(host), b.nearHosts(host, p.o.ref.Namespace))
			continue
		}
		if len(service.Ports) == 0 {
			b.refuse(p.o, codeNoPort, p.path+".to", "%s has no port", service.Host)
			continue
		}
		to := service.Ports[0].Number
		if port != "" {
			i := slices.IndexFunc(service.Ports, func(sp mesh.Port) bool {
				return sp.Name == port || strconv.Itoa(int(sp.Number)) == port
			})
			if i < 0 {
				b.refuse(p.o, codeNoPort, p.path+".to", "%s has no port %q: it has %s", service.Host, clip(port), portNames(service))
				continue
			}
			to = service.Ports[i].Number
		}
		seen[p.port] = p.o.ref
		b.result.Publish = append(b.result.Publish, Publish{Ref: p.o.ref, Port: p.port, Host: service.Host, To: to})
	}
}

// find is the service that a name means in a namespace: short, NAME.NAMESPACE,
// or full.
func (b *builder) find(host, namespace string) *mesh.Service {
	for _, full := range expand(host, namespace, b.settings.ClusterDomain) {
		if s := b.snapshot.Service(full, namespace); s != nil {
			return s
		}
	}
	return nil
}

func portNames(s *mesh.Service) string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, portName(p.Name, p.Number))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// Dir is where l's process starts, given as its file was named.
func (l *Local) Dir() string {
	if path.IsAbs(l.WorkingDir) {
		return l.WorkingDir
	}
	return path.Join(path.Dir(l.File), l.WorkingDir)
}
