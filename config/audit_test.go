package config

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	meshv1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	telemetryv1 "istio.io/api/telemetry/v1alpha1"
	"sigs.k8s.io/yaml"
)

// audited is a kind of Istio's API, each field of which somebody has decided on.
type audited struct {
	kind, apiVersion string
	message          proto.Message
	known            *fieldSet
	// Specs in which a field is tried, by the beginning of its path: one that it
	// can show an effect in.
	bases map[string]string
	// Values of fields for which those of their type will not do.
	samples map[string]any
	// Fields that are read and say nothing that could have an effect.
	descriptive []string
}

// others are resources that defaults of MeshConfig hold for.
const others = `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"a"},"spec":{"hosts":["a"],"http":[{"route":[{"destination":{"host":"a"}}]}]}}
---
{"apiVersion":"networking.istio.io/v1","kind":"DestinationRule","metadata":{"name":"a"},"spec":{"host":"a"}}
`

const aService = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"selector":{"app":"a"},"ports":[{"port":80,"name":"http"}]}}`

var istioAPI = []audited{
	{
		kind: "VirtualService", apiVersion: "networking.istio.io/v1", message: &networking.VirtualService{}, known: virtualServiceFields,
		bases: map[string]string{
			"":                             `{hosts: [a], http: [{route: [{destination: {host: a}}]}]}`,
			"http.redirect":                `{hosts: [a], http: [{redirect: {uri: /base}}]}`,
			"http.directResponse":          `{hosts: [a], http: [{directResponse: {status: 200}}]}`,
			"http.rewrite":                 `{hosts: [a], http: [{rewrite: {authority: base}, route: [{destination: {host: a}}]}]}`,
			"http.rewrite.uriRegexRewrite": `{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: base, rewrite: base}}, route: [{destination: {host: a}}]}]}`,
			"http.match.ignoreUriCase":     `{hosts: [a], http: [{match: [{uri: {exact: /a}}], route: [{destination: {host: a}}]}]}`,
			"http.route.weight":            `{hosts: [a], http: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: a}, weight: 9}]}]}`,
			"http.delegate":                `{hosts: [a], http: [{delegate: {name: base}}, {route: [{destination: {host: a}}]}]}`,
			"http.fault":                   `{hosts: [a], http: [{fault: {delay: {fixedDelay: 1s, percentage: {value: 1}}, abort: {httpStatus: 500, percentage: {value: 1}}}, route: [{destination: {host: a}}]}]}`,
			"http.fault.delay.percent":     `{hosts: [a], http: [{fault: {delay: {fixedDelay: 1s}}, route: [{destination: {host: a}}]}]}`,
			"http.mirror":                  `{hosts: [a], http: [{mirror: {host: b}, route: [{destination: {host: a}}]}]}`,
			"http.mirrorPercentage":        `{hosts: [a], http: [{mirror: {host: b}, route: [{destination: {host: a}}]}]}`,
			"http.corsPolicy.allowOrigin":  `{hosts: [a], http: [{corsPolicy: {}, route: [{destination: {host: a}}]}]}`,
			"http.mirrors":                 `{hosts: [a], http: [{mirrors: [{destination: {host: b}}], route: [{destination: {host: a}}]}]}`,
			"http.retries":                 `{hosts: [a], http: [{retries: {attempts: 3}, route: [{destination: {host: a}}]}]}`,
			"http.corsPolicy":              `{hosts: [a], http: [{corsPolicy: {allowOrigins: [{exact: base}]}, route: [{destination: {host: a}}]}]}`,
			"tcp":                          `{hosts: [a], tcp: [{route: [{destination: {host: a}}]}]}`,
			"tcp.route.weight":             `{hosts: [a], tcp: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: a}, weight: 9}]}]}`,
			"tls":                          `{hosts: [a.example.com], tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: a}}]}]}`,
			"tls.route.weight":             `{hosts: [a.example.com], tls: [{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: a}, weight: 1}, {destination: {host: a}, weight: 9}]}]}`,
		},
		samples: map[string]any{
			"http.redirect.redirectCode": 302, "http.directResponse.status": 418, "http.redirect.scheme": "https", "http.directResponse.body.bytes": "YWJj",
			"http.fault.abort.httpStatus": 418, "http.fault.abort.grpcStatus": "UNAVAILABLE",
			"http.retries.retryOn": "5xx", "tcp.match.destinationSubnets": []any{"10.0.0.0/8"}, "tls.match.destinationSubnets": []any{"10.0.0.0/8"},
		},
	},
	{
		kind: "DestinationRule", apiVersion: "networking.istio.io/v1", message: &networking.DestinationRule{}, known: destinationRuleFields,
		bases: policyBases(), samples: policySamples(),
	},
	{
		kind: "ServiceEntry", apiVersion: "networking.istio.io/v1", message: &networking.ServiceEntry{}, known: serviceEntryFields,
		bases: map[string]string{
			"":                 `{hosts: [x.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}`,
			"endpoints":        `{hosts: [x.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 192.0.2.9}]}`,
			"workloadSelector": `{hosts: [x.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC}`,
		},
		samples: map[string]any{
			"addresses": []any{"192.0.2.1"}, "resolution": "STATIC", "location": "MESH_INTERNAL", "endpoints.address": "192.0.2.8", "endpoints.ports": map[string]any{"http": 7},
			"ports.protocol": "TCP",
		},
	},
	{
		kind: "WorkloadEntry", apiVersion: "networking.istio.io/v1", message: &networking.WorkloadEntry{}, known: workloadEntryFields,
		bases:   map[string]string{"": `{address: 192.0.2.9}`},
		samples: map[string]any{"address": "192.0.2.8"},
	},
	{
		kind: "Sidecar", apiVersion: "networking.istio.io/v1", message: &networking.Sidecar{}, known: sidecarFields,
		bases: map[string]string{
			"":                  `{egress: [{hosts: ["./*"]}]}`,
			"ingress":           `{ingress: [{port: {number: 80, protocol: HTTP, name: x}}]}`,
			"ingress.port.name": `{ingress: [{port: {number: 80}}]}`,
		},
		samples: map[string]any{
			"egress.hosts": []any{"*/*"}, "ingress.port.protocol": "TCP", "ingress.port.name": "grpc", "ingress.defaultEndpoint": "127.0.0.1:7",
		},
		descriptive: []string{"egress.port.name", "egress.port.protocol"},
	},
	{
		kind: "PeerAuthentication", apiVersion: "security.istio.io/v1", message: &security.PeerAuthentication{}, known: peerAuthenticationFields,
		bases: map[string]string{"": `{selector: {matchLabels: {app: base}}}`},
	},
	{
		kind: "AuthorizationPolicy", apiVersion: "security.istio.io/v1", message: &security.AuthorizationPolicy{}, known: authorizationFields,
		bases: map[string]string{
			"":                  `{rules: [{to: [{operation: {methods: [GET]}}]}]}`,
			"rules.from.source": `{rules: [{from: [{source: {namespaces: [base]}}]}]}`,
			"rules.when":        `{rules: [{when: [{key: "request.headers[x]", values: [base]}]}]}`,
			"selector":          `{selector: {matchLabels: {app: base}}}`,
		},
		samples: map[string]any{
			"rules.from.source.ipBlocks": []any{"192.0.2.0/24"}, "rules.from.source.notIpBlocks": []any{"192.0.2.0/24"},
			"rules.from.source.remoteIpBlocks": []any{"192.0.2.0/24"}, "rules.from.source.notRemoteIpBlocks": []any{"192.0.2.0/24"},
			"rules.to.operation.ports": []any{"80"}, "rules.to.operation.notPorts": []any{"80"}, "rules.when.key": "source.namespace",
		},
	},
	{
		kind: "Telemetry", apiVersion: "telemetry.istio.io/v1", message: &telemetryv1.Telemetry{}, known: telemetryFields,
		descriptive: []string{"tracing.customTags.formatter.value"}, // the formatter is reported
		bases: map[string]string{
			"":                               `{tracing: [{}]}`,
			"tracing.customTags.header":      `{tracing: [{customTags: {x-key: {header: {name: base}}}}]}`,
			"tracing.customTags.environment": `{tracing: [{customTags: {x-key: {environment: {name: base}}}}]}`,
			"tracing.customTags.formatter":   `{tracing: [{customTags: {x-key: {literal: {value: base}}}}]}`,
		},
	},
	{
		kind: "MeshConfig", message: &meshv1.MeshConfig{}, known: meshConfigFields,
		bases: map[string]string{
			"":                                 `{trustDomain: base}`,
			"accessLogEncoding":                `{accessLogFile: /dev/stdout}`,
			"extensionProviders":               `{extensionProviders: [{name: base}]}`,
			"extensionProviders.opentelemetry": `{extensionProviders: [{name: base, opentelemetry: {service: s, port: 1}}]}`,
			"extensionProviders.zipkin":        `{extensionProviders: [{name: base, zipkin: {service: s, port: 1}}]}`,
			"defaultHttpRetryPolicy":           `{defaultHttpRetryPolicy: {attempts: 3}}`,
			"defaultConfig.tracing.customTags.header":               `{defaultConfig: {tracing: {customTags: {x-key: {header: {name: base}}}}}}`,
			"defaultConfig.tracing.customTags.environment":          `{defaultConfig: {tracing: {customTags: {x-key: {environment: {name: base}}}}}}`,
			"localityLbSetting.distribute":                          `{localityLbSetting: {distribute: [{from: "a/*", to: {"a/*": 100}}]}}`,
			"localityLbSetting.failover":                            `{localityLbSetting: {failover: [{from: a, to: b}]}}`,
			"extensionProviders.zipkin.headers":                     `{extensionProviders: [{name: base, zipkin: {service: s, port: 1, headers: [{name: base}]}}]}`,
			"extensionProviders.opentelemetry.http.headers":         `{extensionProviders: [{name: base, opentelemetry: {service: s, port: 1, http: {headers: [{name: base}]}}}]}`,
			"extensionProviders.opentelemetry.grpc.initialMetadata": `{extensionProviders: [{name: base, opentelemetry: {service: s, port: 1, grpc: {initialMetadata: [{name: base}]}}}]}`,
		},
		samples: map[string]any{
			"defaultHttpRetryPolicy.retryOn": "5xx", "enableAutoMtls": false, "pathNormalization.normalization": "MERGE_SLASHES",
			"defaultConfig.tracing.zipkin.address": "zipkin:9411", "localityLbSetting.enabled": false, "localityLbSetting.distribute.from": "b/*",
		},
		descriptive: append([]string{ // what they are part of is refused
			"defaultConfig.tracing.openCensusAgent.address", "defaultConfig.tracing.openCensusAgent.context", "extensionProviders.opencensus.service",
			"extensionProviders.opencensus.port", "extensionProviders.opencensus.context", "extensionProviders.opencensus.maxTagLength",
		}, sidecarDefaults...), // whose effect inject's tests show
	},
}

// The four places where DestinationRule has a policy, and a spec with one there.
var policyPlaces = map[string]string{
	"trafficPolicy.":                           `{host: a, trafficPolicy: %s}`,
	"trafficPolicy.portLevelSettings.":         `{host: a, trafficPolicy: {portLevelSettings: [%s]}}`,
	"subsets.trafficPolicy.":                   `{host: a, subsets: [{name: s, labels: {v: v}, trafficPolicy: %s}]}`,
	"subsets.trafficPolicy.portLevelSettings.": `{host: a, subsets: [{name: s, labels: {v: v}, trafficPolicy: {portLevelSettings: [%s]}}]}`,
}

func policyBases() map[string]string {
	out := map[string]string{"": `{host: a}`, "subsets": `{host: a, subsets: [{name: s, labels: {v: v}}]}`}
	for at, spec := range policyPlaces {
		for field, policy := range map[string]string{
			"":                                       `{}`,
			"loadBalancer.consistentHash":            `{loadBalancer: {consistentHash: {useSourceIp: true}}}`,
			"loadBalancer.consistentHash.httpCookie": `{loadBalancer: {consistentHash: {httpCookie: {name: base, ttl: 1s, attributes: [{name: base, value: base}]}}}}`,
			"loadBalancer.localityLbSetting.distribute":       `{loadBalancer: {localityLbSetting: {distribute: [{from: "a/*", to: {"a/*": 100}}]}}}`,
			"loadBalancer.localityLbSetting.failover":         `{loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}`,
			"loadBalancer.warmup":                             `{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s}}}`,
			"outlierDetection.consecutiveLocalOriginFailures": `{outlierDetection: {splitExternalLocalOriginErrors: true}}`,
			"tls":                    `{tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a}}`,
			"tls.credentialName":     `{tls: {mode: SIMPLE}}`,
			"tls.insecureSkipVerify": `{tls: {mode: SIMPLE}}`,
		} {
			if strings.Contains(at, "portLevelSettings") {
				policy = strings.Replace(strings.TrimSuffix(policy, "}")+", port: {number: 80}}", "{, ", "{", 1)
			}
			out[strings.TrimSuffix(at+field, ".")] = fmt.Sprintf(spec, policy)
		}
	}
	return out
}

func policySamples() map[string]any {
	out := map[string]any{}
	for at := range policyPlaces {
		for field, v := range map[string]any{
			"loadBalancer.consistentHash.minimumRingSize": 4096, "loadBalancer.consistentHash.ringHash.minimumRingSize": 4096,
			"loadBalancer.consistentHash.maglev.tableSize": 101, "loadBalancer.localityLbSetting.enabled": false,
			"loadBalancer.localityLbSetting.distribute.from": "b/*", "loadBalancer.warmup.minimumPercent": 20, "loadBalancer.warmup.aggression": 2,
			"tls.credentialName": "base",
		} {
			out[at+field] = v
		}
	}
	return out
}

// decided is what became of a field.
type decided struct {
	path string
	read bool
	lack lack
}

// fieldsOf walks a kind's schema: the fields that are read, as leaves, and those
// that are not, without what is below them.
func (a *audited) fieldsOf(t *testing.T) []decided {
	var out []decided
	seen := map[string]bool{}
	var walk func(m protoreflect.MessageDescriptor, prefix string, deep bool, depth int)
	walk = func(m protoreflect.MessageDescriptor, prefix string, deep bool, depth int) {
		if depth > 12 {
			t.Fatalf("%s %s: too deep", a.kind, prefix)
		}
		for i := range m.Fields().Len() {
			fd := m.Fields().Get(i)
			path := join(prefix, fd.JSONName())
			l, lacking := lacks[a.kind][path]
			if lacking {
				seen[path] = true
			}
			read := deep || a.known.exact[path]
			switch {
			case lacking && read:
				t.Errorf("%s %s is read, and said to have no effect: remove it from lacks", a.kind, path)
			case lacking:
				out = append(out, decided{path: path, lack: l})
				continue
			case !read:
				t.Errorf("%s %s: nobody has decided on this field: read it, or say in lacks what to do without it", a.kind, path)
				continue
			}
			inner := fd.Message()
			if fd.IsMap() {
				inner = fd.MapValue().Message()
			}
			if inner == nil || strings.HasPrefix(string(inner.FullName()), "google.protobuf.") || inner.Fields().Len() == 0 {
				out = append(out, decided{path: path, read: true})
				continue
			}
			walk(inner, path, deep || a.known.deep[path], depth+1)
		}
	}
	walk(a.message.ProtoReflect().Descriptor(), "", false, 0)
	for path := range lacks[a.kind] {
		if !seen[path] {
			t.Errorf("%s %s: there is no such field any more, or one above it is in lacks", a.kind, path)
		}
	}
	return out
}

// TestEveryFieldIsDecided holds that each field of Istio's API is read or that
// its having no effect is said, with what to do; so that a newer API is taken
// in by somebody who has looked at it.
func TestEveryFieldIsDecided(t *testing.T) {
	for i := range istioAPI {
		if len(istioAPI[i].fieldsOf(t)) == 0 {
			t.Errorf("%s has no fields", istioAPI[i].kind)
		}
	}
	for kind := range lacks {
		if !slices.ContainsFunc(istioAPI, func(a audited) bool { return a.kind == kind }) {
			t.Errorf("lacks has the kind %s, which no test walks", kind)
		}
	}
}

// TestEveryFieldHasAnEffect sets each field alone: it changes the model, or
// there is a finding about it. Otherwise it would be ignored in silence.
func TestEveryFieldHasAnEffect(t *testing.T) {
	for i := range istioAPI {
		a := &istioAPI[i]
		t.Run(a.kind, func(t *testing.T) {
			for _, f := range a.fieldsOf(t) {
				with, without := a.specs(t, f.path)
				x, y := a.build(t, with), a.build(t, without)
				changed := x.model != y.model
				said := false
				for finding := range x.findings {
					said = said || !y.findings[finding]
				}
				switch {
				case slices.Contains(a.descriptive, f.path):
					if changed {
						t.Errorf("%s is said to be descriptive, and has an effect", f.path)
					}
				case !f.read && !said:
					t.Errorf("%s has no effect, and no finding says so\n%s", f.path, with)
				case f.read && !changed && !said:
					t.Errorf("%s is ignored in silence (or needs another base or sample here)\n%s", f.path, with)
				}
			}
		})
	}
}

// specs are two specs, as JSON, that differ by the field at path alone.
func (a *audited) specs(t *testing.T, path string) (with, without string) {
	best := ""
	for prefix := range a.bases {
		if (path == prefix || strings.HasPrefix(path, prefix+".")) && len(prefix) > len(best) {
			best = prefix
		}
	}
	fresh := func() map[string]any {
		var m map[string]any
		if err := yaml.Unmarshal([]byte(a.bases[best]), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	text := func(m map[string]any) string {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	m := fresh()
	a.set(m, a.message.ProtoReflect().Descriptor(), strings.Split(path, "."), path, true)
	with = text(m)
	m = fresh()
	a.set(m, a.message.ProtoReflect().Descriptor(), strings.Split(path, "."), path, false)
	return with, text(m)
}

// set sets or removes the field that steps lead to; what is on the way is made.
func (a *audited) set(m map[string]any, desc protoreflect.MessageDescriptor, steps []string, path string, present bool) {
	fd := desc.Fields().ByJSONName(steps[0])
	name := fd.JSONName()
	if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
		for i := range one.Fields().Len() {
			if other := one.Fields().Get(i).JSONName(); other != name {
				delete(m, other)
			}
		}
	}
	if len(steps) == 1 {
		delete(m, name)
		if present {
			m[name] = a.sample(fd, path)
		}
		return
	}
	inner, next := fd.Message(), map[string]any{}
	switch {
	case fd.IsMap():
		inner = fd.MapValue().Message()
		if have, ok := m[name].(map[string]any); ok {
			next = have[mapKey(fd)].(map[string]any)
		} else {
			m[name] = map[string]any{mapKey(fd): next}
		}
	case fd.IsList():
		if list, ok := m[name].([]any); ok {
			next = list[0].(map[string]any)
		} else {
			m[name] = []any{next}
		}
	default:
		if have, ok := m[name].(map[string]any); ok {
			next = have
		} else {
			m[name] = next
		}
	}
	a.set(next, inner, steps[1:], path, present)
}

func mapKey(fd protoreflect.FieldDescriptor) string {
	if fd.MapKey().Kind() == protoreflect.StringKind {
		return "x-key"
	}
	return "7"
}

// sample is a value that no base has.
func (a *audited) sample(fd protoreflect.FieldDescriptor, path string) any {
	if v, ok := a.samples[path]; ok {
		return v
	}
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() != nil {
			return map[string]any{mapKey(fd): map[string]any{}}
		}
		return map[string]any{mapKey(fd): single(fd.MapValue())}
	case fd.IsList():
		return []any{single(fd)}
	}
	return single(fd)
}

func single(fd protoreflect.FieldDescriptor) any {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return true
	case protoreflect.StringKind:
		return "sample"
	case protoreflect.BytesKind:
		return "YWJj"
	case protoreflect.EnumKind:
		return string(fd.Enum().Values().Get(fd.Enum().Values().Len() - 1).Name())
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case "google.protobuf.Duration":
			return "7s"
		case "google.protobuf.BoolValue":
			return true
		case "google.protobuf.StringValue":
			return "sample"
		}
		if strings.HasSuffix(string(fd.Message().FullName()), "Value") {
			return 7
		}
		return map[string]any{}
	}
	return 7
}

type outcome struct {
	model    string
	findings map[string]bool
}

// build builds a mesh with one resource of the kind.
func (a *audited) build(t *testing.T, spec string) outcome {
	opt := Options{}
	files := []File{{"base.yaml", []byte(aService)}}
	if a.kind == "MeshConfig" {
		opt.MeshConfig = &File{"mesh", []byte(spec)}
		files = append(files, File{"others.yaml", []byte(others)})
	} else {
		files = append(files, File{"x.yaml", fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,"metadata":{"name":"x"},"spec":%s}`, a.apiVersion, a.kind, spec)})
	}
	r := Build(files, opt)
	model, err := json.Marshal(r.Snapshot.Parts)
	if err != nil {
		t.Fatal(err)
	}
	out := outcome{string(model), map[string]bool{}}
	for i := range r.Findings {
		out.findings[r.Findings[i].String()] = true
	}
	return out
}

// docs/istio-api.md lists every field.
func TestFieldsAreDocumented(t *testing.T) {
	var b strings.Builder
	for i := range istioAPI {
		a := &istioAPI[i]
		fmt.Fprintf(&b, "\n## %s\n\n| in | fields | |\n| --- | --- | --- |\n", a.kind)
		groups, order := map[string][]string{}, []string{}
		for _, f := range a.fieldsOf(t) {
			parent, name := "", f.path
			if i := strings.LastIndexByte(f.path, '.'); i >= 0 {
				parent, name = f.path[:i], f.path[i+1:]
			}
			said := "read"
			if !f.read {
				said = f.lack.advice
			}
			if repeated(parent) {
				continue
			}
			key := said + "\x00" + parent
			if groups[key] == nil {
				order = append(order, key)
			}
			groups[key] = append(groups[key], "`"+name+"`")
		}
		for _, key := range order {
			said, parent, _ := strings.Cut(key, "\x00")
			if parent != "" {
				parent = "`" + parent + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", parent, strings.Join(groups[key], ", "), said)
		}
	}
	const file, from, to = "../docs/istio-api.md", "<!-- fields -->\n", "<!-- /fields -->"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), from)
	_, after, ok := strings.Cut(rest, to)
	if !ok {
		t.Fatalf("%s has no place for the fields", file)
	}
	want := before + from + b.String() + "\n" + to + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(page) {
		t.Errorf("%s is behind: run with -update", file)
	}
}

// repeated is what the page does not repeat of DestinationRule.
func repeated(parent string) bool {
	return strings.HasPrefix(parent+".", "subsets.trafficPolicy.") || strings.HasPrefix(parent, "trafficPolicy.portLevelSettings") && parent != "trafficPolicy.portLevelSettings.port"
}
