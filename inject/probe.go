package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probe is a question for the application, as package apphealth reads it.
type probe struct {
	HTTPGet        *httpGet   `json:"httpGet,omitempty"`
	TCPSocket      *tcpSocket `json:"tcpSocket,omitempty"`
	GRPC           *grpc      `json:"grpc,omitempty"`
	TimeoutSeconds int32      `json:"timeoutSeconds,omitempty"`
}

// kind is the field of the pod's probe that holds the question.
func (q *probe) kind() string {
	switch {
	case q.HTTPGet != nil:
		return "httpGet"
	case q.TCPSocket != nil:
		return "tcpSocket"
	}
	return "grpc"
}

type (
	httpGet struct {
		Path    string   `json:"path,omitempty"`
		Port    int32    `json:"port"`
		Scheme  string   `json:"scheme,omitempty"`
		Headers []header `json:"httpHeaders,omitempty"`
	}
	header struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	tcpSocket struct {
		Port int32 `json:"port"`
	}
	grpc struct {
		Port    int32  `json:"port"`
		Service string `json:"service,omitempty"`
	}
)

// metricsPlace is where the application's metrics are, as package appmetrics
// reads it.
type metricsPlace struct {
	Scheme string `json:"scheme,omitempty"`
	Port   int32  `json:"port"`
	Path   string `json:"path,omitempty"`
}

// rewriteProbes lets the kubelet ask the sidecar what it would have asked the
// application, whose ports need a certificate from now on. Paths are Istio's.
// Commands (exec) run in the container and stay as they are.
func rewriteProbes(p *patch, pod *corev1.Pod, s *settings) map[string]*probe {
	if !s.RewriteAppHTTPProbers {
		return nil
	}
	out := map[string]*probe{}
	for _, l := range [...]struct {
		list    []corev1.Container
		pointer string
	}{{pod.Spec.InitContainers, "/spec/initContainers/"}, {pod.Spec.Containers, "/spec/containers/"}} {
		for i := range l.list {
			c := &l.list[i]
			if c.Name == ProxyName || c.Name == InitName {
				continue
			}
			at := l.pointer + index(i)
			for _, k := range [...]struct {
				p           *corev1.Probe
				field, path string
			}{{c.StartupProbe, "startupProbe", "startupz"}, {c.LivenessProbe, "livenessProbe", "livez"}, {c.ReadinessProbe, "readinessProbe", "readyz"}} {
				if k.p == nil {
					continue
				}
				q := s.question(c, k.field, k.p.HTTPGet, k.p.TCPSocket, k.p.GRPC)
				if q == nil {
					continue
				}
				if k.p.TimeoutSeconds != 1 { // the default, which the API server writes and a manifest does not
					q.TimeoutSeconds = k.p.TimeoutSeconds
				}
				path := "/app-health/" + c.Name + "/" + k.path
				out[path] = q
				// Kind by kind, so that times and thresholds, known or not, stay.
				p.moveTo(at+"/"+k.field, q.kind(), s.asked(path))
			}
			if c.Lifecycle == nil {
				continue
			}
			for _, k := range [...]struct {
				h           *corev1.LifecycleHandler
				field, path string
			}{{c.Lifecycle.PostStart, "postStart", "poststartz"}, {c.Lifecycle.PreStop, "preStop", "prestopz"}} {
				if k.h == nil {
					continue
				}
				q := s.question(c, k.field, k.h.HTTPGet, nil, nil)
				if q == nil {
					continue
				}
				path := "/app-lifecycle/" + c.Name + "/" + k.path
				out[path] = q
				p.moveTo(at+"/lifecycle/"+k.field, "httpGet", s.asked(path))
			}
		}
	}
	return out
}

// moveTo makes the handler at a pointer an HTTP request.
func (p *patch) moveTo(at, kind string, to *corev1.HTTPGetAction) {
	if kind != "httpGet" {
		p.ops = append(p.ops, Operation{Op: "remove", Path: at + "/" + kind})
		p.do("add", at+"/httpGet", to)
		return
	}
	p.do("replace", at+"/httpGet", to)
}

func (s *settings) asked(path string) *corev1.HTTPGetAction {
	return &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(s.StatusPort), Scheme: corev1.URISchemeHTTP}
}

// question is what the kubelet would ask; nil if it need not or cannot be
// rewritten.
func (s *settings) question(c *corev1.Container, field string, h *corev1.HTTPGetAction, t *corev1.TCPSocketAction, g *corev1.GRPCAction) *probe {
	stays := func(why string) *probe {
		s.warnings = append(s.warnings, fmt.Sprintf("%s of container %s is not rewritten: %s; it fails where the port demands mutual TLS", field, c.Name, why))
		return nil
	}
	port := func(p intstr.IntOrString) int32 {
		if p.Type == intstr.Int {
			return p.IntVal
		}
		for i := range c.Ports {
			if c.Ports[i].Name == p.StrVal {
				return c.Ports[i].ContainerPort
			}
		}
		n, err := strconv.ParseInt(p.StrVal, 10, 32)
		if err != nil {
			return 0
		}
		return int32(n)
	}
	valid := func(p int32) bool { return p > 0 && p < 65536 }
	switch {
	case h != nil:
		if h.Host != "" {
			return stays("it names a host of its own, " + h.Host)
		}
		n := port(h.Port)
		if n == s.StatusPort && (strings.HasPrefix(h.Path, "/app-health/") || strings.HasPrefix(h.Path, "/app-lifecycle/")) {
			return nil // rewritten already
		}
		if !valid(n) {
			return stays("the container has no port " + h.Port.String())
		}
		q := &httpGet{Path: h.Path, Port: n}
		if h.Scheme == corev1.URISchemeHTTPS {
			q.Scheme = "HTTPS"
		}
		for _, f := range h.HTTPHeaders {
			q.Headers = append(q.Headers, header{f.Name, f.Value})
		}
		return &probe{HTTPGet: q}
	case t != nil:
		if t.Host != "" {
			return stays("it names a host of its own, " + t.Host)
		}
		n := port(t.Port)
		if !valid(n) {
			return stays("the container has no port " + t.Port.String())
		}
		return &probe{TCPSocket: &tcpSocket{Port: n}}
	case g != nil:
		q := &grpc{Port: g.Port}
		if g.Service != nil {
			q.Service = *g.Service
		}
		return &probe{GRPC: q}
	}
	return nil
}

// addProbes tells a sidecar that is there already of further probes.
func (p *patch) addProbes(sidecar *corev1.Container, at string, probes map[string]*probe) error {
	if len(probes) == 0 {
		return nil
	}
	i := slices.IndexFunc(sidecar.Env, func(e corev1.EnvVar) bool { return e.Name == envProbes })
	all := map[string]*probe{}
	if i >= 0 {
		if err := json.Unmarshal([]byte(undollars(sidecar.Env[i].Value)), &all); err != nil {
			return fmt.Errorf("inject: %s of container %s: %w", envProbes, ProxyName, err)
		}
		if all == nil { // "null"
			all = map[string]*probe{}
		}
	}
	for path, q := range probes {
		all[path] = q
	}
	b, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("inject: %s: %w", envProbes, err)
	}
	value := corev1.EnvVar{Name: envProbes, Value: dollars(string(b))}
	if i >= 0 {
		p.do("replace", at+"/env/"+index(i), value)
	} else {
		list(p, at+"/env", len(sidecar.Env), false, value)
	}
	return p.err
}

// dollars keeps the kubelet from expanding $(NAME) in a value.
func dollars(s string) string { return strings.ReplaceAll(s, "$(", "$$(") }

func undollars(s string) string { return strings.ReplaceAll(s, "$$(", "$(") }

// applicationMetrics has Prometheus read the sidecar's metrics, and through it
// the application's where the pod's annotations say that it has some: its own
// port takes no plaintext. As Istio, a pod that refuses to be scraped stays so.
func (s *settings) applicationMetrics(p *patch, pod *corev1.Pod) *metricsPlace {
	const scrape, port, path, scheme = "prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path", "prometheus.io/scheme"
	if !s.prometheus || pod.Annotations[scrape] == "false" {
		return nil
	}
	var place *metricsPlace
	if pod.Annotations[scrape] == "true" {
		place = &metricsPlace{Scheme: pod.Annotations[scheme], Path: pod.Annotations[path], Port: declaredPort(pod)}
		if v, ok := pod.Annotations[port]; ok {
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				n = 0
			}
			place.Port = int32(n)
		}
		if place.Port == 0 || place.Scheme != "" && !strings.EqualFold(place.Scheme, "http") && !strings.EqualFold(place.Scheme, "https") {
			s.warnings = append(s.warnings, "the application's metrics are not merged: annotations "+port+" and "+scheme+" name no place where they are")
			place = nil
		}
	}
	p.annotation(pod, scrape, "true")
	p.annotation(pod, port, strconv.Itoa(int(s.StatusPort)))
	p.annotation(pod, path, "/stats/prometheus")
	if _, ok := pod.Annotations[scheme]; ok {
		p.annotation(pod, scheme, "http")
	}
	return place
}

// declaredPort is the first TCP port that a container declares: where
// Prometheus looks when no annotation names a port.
func declaredPort(pod *corev1.Pod) int32 {
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
				return p.ContainerPort
			}
		}
	}
	return 0
}
