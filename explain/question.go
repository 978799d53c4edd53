package explain

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/seinemesh/seine/mesh"
)

// target is a parsed URL.
type target struct {
	scheme, method  string
	host, authority string
	port            uint16
	path            string // with the query
}

func (t *target) http() bool { return t.scheme == "http" || t.scheme == "grpc" }

var defaultPorts = map[string]uint16{"http": 80, "grpc": 80, "https": 443, "tls": 443}

func parseURL(q Question) (target, error) {
	t := target{method: q.Method}
	if q.URL == "" {
		return t, wrong("url", "a question needs one, such as http://billing-service:8080/path")
	}
	u, err := url.Parse(q.URL)
	if err != nil {
		return t, wrong("url", "%v", err)
	}
	t.scheme = strings.ToLower(u.Scheme)
	if t.scheme == "https" { // the application begins the TLS: nothing of the request is seen
		t.scheme = "tls"
	}
	switch t.scheme {
	case "http", "grpc", "tcp", "tls":
	default:
		return t, wrong("url", "%q must begin with http://, grpc://, https://, tcp:// or tls://", q.URL)
	}
	t.host, t.authority = strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Host
	if t.host == "" {
		return t, wrong("url", "%q names no host", q.URL)
	}
	t.port = defaultPorts[t.scheme]
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return t, wrong("url", "%q is no port", p)
		}
		t.port = uint16(n)
	} else if t.port == 0 {
		return t, wrong("url", "%s:// needs a port, such as tcp://%s:5432", t.scheme, t.host)
	}
	if t.path = u.EscapedPath(); t.path == "" {
		t.path = "/"
	}
	if u.RawQuery != "" || u.ForceQuery {
		t.path += "?" + u.RawQuery
	}
	if t.method == "" {
		t.method = "GET"
		if t.scheme == "grpc" {
			t.method = "POST"
		}
	}
	if strings.ContainsFunc(t.method, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return t, wrong("method", "%q is none", t.method)
	}
	for _, h := range q.Headers {
		if name, _, ok := splitHeader(h); !ok || name == "" {
			return t, wrong("headers", "%q is not NAME: VALUE", h)
		}
	}
	return t, nil
}

// checkCaller checks what TLS and the socket would have said of the caller.
func checkCaller(q Question) error {
	if q.Principal != "" {
		domain, path, _ := strings.Cut(strings.TrimPrefix(q.Principal, "spiffe://"), "/")
		if domain == "" || path == "" || strings.ContainsAny(q.Principal, " \t\r\n") {
			return wrong("principal", "%q is no identity: write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, with or without spiffe:// before it", q.Principal)
		}
	}
	if q.SourceIP != "" {
		if _, err := netip.ParseAddr(q.SourceIP); err != nil {
			return wrong("sourceIP", "%q is not an IP address", q.SourceIP)
		}
	}
	return nil
}

func splitHeader(h string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(h, ":")
	return strings.TrimSpace(name), strings.Trim(value, " \t"), ok
}

func headerNamed(headers []string, lower string) (string, bool) {
	for _, h := range headers {
		if name, value, _ := splitHeader(h); strings.EqualFold(name, lower) {
			return value, true
		}
	}
	return "", false
}

// party finds or makes the workload that text names.
func party(s *mesh.Snapshot, field, text string) (w *mesh.Workload, gateway bool, err error) {
	rest, gateway := strings.CutPrefix(text, "gateway:")
	if rest == "" {
		return nil, false, wrong(field, "say who: NAMESPACE/WORKLOAD, or NAMESPACE,label=value for one that nothing describes")
	}
	if namespace, name, ok := strings.Cut(rest, "/"); ok && !strings.Contains(namespace, ",") {
		if w = find(s, namespace, name); w == nil {
			return nil, false, wrong(field, "there is no workload %q in namespace %s%s; for one that nothing describes, write %s,label=value",
				name, namespace, known(s, namespace), namespace)
		}
		return w, gateway, nil
	}
	parts := strings.Split(rest, ",")
	w = &mesh.Workload{
		Ref:      mesh.Ref{Kind: "Workload", Namespace: strings.TrimSpace(parts[0]), Name: "(any)"},
		Instance: "(any)", ServiceAccount: "default", Labels: map[string]string{}, Sidecar: true, Gateway: gateway,
	}
	for _, p := range parts[1:] {
		k, v, ok := strings.Cut(strings.TrimSpace(p), "=")
		if !ok || k == "" {
			return nil, false, wrong(field, "%q is not label=value", p)
		}
		w.Labels[k] = v
	}
	if app := cmp.Or(w.Labels["app"], w.Labels["app.kubernetes.io/name"]); app != "" {
		w.App, w.Instance = app, "("+app+")"
	}
	return w, gateway, nil
}

// find is an instance, or the first instance of an application of that name.
func find(s *mesh.Snapshot, namespace, name string) *mesh.Workload {
	if w := s.Workload(namespace + "/" + name); w != nil {
		return w
	}
	var found *mesh.Workload
	for _, w := range s.Workloads {
		if w.Namespace == namespace && w.App == name && (found == nil || w.Instance < found.Instance) {
			found = w
		}
	}
	return found
}

// known lists a few workloads of a namespace for a message.
func known(s *mesh.Snapshot, namespace string) string {
	var names []string
	for _, w := range s.Workloads {
		if w.Namespace == namespace {
			names = append(names, cmp.Or(w.App, w.Instance))
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 5 {
		names = append(names[:5], "…")
	}
	return " (there are " + strings.Join(names, ", ") + ")"
}
