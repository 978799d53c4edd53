package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"github.com/seinemesh/seine/mesh"
)

// builder is the state of one Build.
type builder struct {
	opt      Options
	settings mesh.Settings
	exports  exports
	result   *Result
	parts    mesh.Parts
	perFile  map[string]int
	types    map[reflect.Type]map[string][]int
	objects  map[mesh.Ref]*object // by Ref, as the model holds it: for lines of later findings

	paper         []*mesh.Workload // replicas of local Workloads and pod templates
	publishes     []pendingPublish
	rules         []*rawRule
	roots         []*root
	delegates     map[string]*delegate // by NAMESPACE/NAME
	namedTargets  []namedTarget
	gatewayRoutes []*gatewayRoute
	snapshot      *mesh.Snapshot
	hints         int // how often names were searched for a near one
}

// Build makes a Snapshot of files. Where two resources contradict each other,
// the one that comes first wins (files in the order given, then by line), and a
// finding on the other names the winner. Each list of the Snapshot's Parts is in
// that order.
func Build(files []File, opt Options) *Result {
	if opt.Namespace == "" {
		opt.Namespace = "default"
	}
	if !opt.VIPs.IsValid() {
		opt.VIPs = DefaultVIPs
	}
	b := &builder{opt: opt, settings: mesh.DefaultSettings(), result: &Result{}, perFile: map[string]int{}, delegates: map[string]*delegate{}, objects: map[mesh.Ref]*object{}}
	if opt.Settings != nil {
		b.settings = *opt.Settings
		b.settings.Prefixes = slices.Clone(opt.Settings.Prefixes)
	}
	if opt.MeshConfig != nil {
		b.meshConfig(*opt.MeshConfig)
	}
	if !opt.Cluster {
		b.prefix(opt.VIPs)
	}

	var objects []*object
	for _, f := range files {
		objects = append(objects, b.read(f)...)
	}
	inFiles := map[objectKey]bool{}
	for _, o := range objects {
		inFiles[o.key()] = true
	}
	for _, r := range opt.Resources {
		for _, o := range b.readAgain(r) {
			if o.ref.Line, o.ref.Created = 0, r.Created; !inFiles[o.key()] {
				objects = append(objects, o)
			}
		}
	}
	b.rootNamespace(objects)
	objects = b.unique(objects)
	under := b.under()
	for _, o := range objects {
		if o.kept.give(b, o, under) {
			continue
		}
		mark := b.mark()
		before, local, publishes, rules, named, paper := b.parts, b.result.Local, b.publishes, b.rules, b.namedTargets, b.paper
		b.decode(o)
		if o.bad { // decoded for its findings only
			b.parts, b.result.Local, b.publishes, b.rules, b.namedTargets, b.paper = before, local, publishes, rules, named, paper
		}
		o.kept.keep(b, o, mark, under)
	}
	b.resolveDelegates()
	b.parts.Workloads = append(b.parts.Workloads, opt.Workloads...)
	b.parts.Backends = opt.Backends
	b.place()
	b.attachRoutes()
	b.mergeRules()
	b.mergePolicies()

	b.parts.Settings = b.settings
	b.snapshot = mesh.New(opt.Generation, b.parts)
	b.result.Snapshot = b.snapshot
	b.publish()
	b.analyze()
	b.result.Findings.sort()
	return b.result
}

func (b *builder) prefix(p netip.Prefix) {
	if !slices.Contains(b.settings.Prefixes, p) {
		b.settings.Prefixes = append(b.settings.Prefixes, p)
	}
}

// finding makes one about path of o.
func (b *builder) finding(o *object, code string, s Severity, path, message string) Finding {
	return b.findingAt(o, code, s, path, message, nil)
}

// findingAt is finding where the place is known already.
func (b *builder) findingAt(o *object, code string, s Severity, path, message string, n *yaml.Node) Finding {
	f := Finding{
		Code: code, Istio: istioCodes[code], Severity: s, Path: path, Message: message,
		Kind: o.ref.Kind, Namespace: o.ref.Namespace, Name: o.ref.Name, File: o.ref.File,
	}
	switch {
	case f.File == "": // a cluster's resource has no lines
	case n != nil && n.Line > 0:
		f.Line = n.Line
	case b.perFile[f.File] < 2*maxFindings: // beyond, it is not listed
		f.Line = o.line(path)
	}
	return f
}

func (b *builder) report(f Finding) {
	from := source(&f)
	b.perFile[from]++
	switch n := b.perFile[from]; {
	case n < maxFindings || f.Severity == Error && n < 2*maxFindings:
		b.result.Findings = append(b.result.Findings, f)
	case n == 2*maxFindings:
		b.result.Findings = append(b.result.Findings, Finding{Code: codeLimit, Severity: Error, File: f.File, Kind: f.Kind, Namespace: f.Namespace, Name: f.Name,
			Message: "too many findings here: the others are not listed", Refused: true})
	case f.Refused && !b.refused(from):
		b.result.Findings = append(b.result.Findings, f)
	}
}

// source is what findings are counted by: the file, or a cluster's resource.
func source(f *Finding) string {
	if f.File == "" {
		return f.Resource()
	}
	return f.File
}

func (b *builder) refused(from string) bool {
	return slices.ContainsFunc(b.result.Findings, func(f Finding) bool { return f.Refused && source(&f) == from })
}

// note reports something that does not refuse the resource.
func (b *builder) note(o *object, code string, s Severity, path, format string, args ...any) {
	b.report(b.finding(o, code, s, path, fmt.Sprintf(format, args...)))
}

// refuse reports what keeps the resource out of the Snapshot.
func (b *builder) refuse(o *object, code, path, format string, args ...any) {
	f := b.finding(o, code, Error, path, fmt.Sprintf(format, args...))
	f.Refused = true
	b.report(f)
}

// header is what every resource has.
type header struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   objectMeta `json:"metadata"`
}

// objectMeta is Kubernetes' ObjectMeta: what we use, and the names of the rest.
type objectMeta struct {
	Name                       string            `json:"name"`
	Namespace                  string            `json:"namespace"`
	Labels                     map[string]string `json:"labels"`
	Annotations                map[string]string `json:"annotations"`
	GenerateName               any               `json:"generateName"`
	SelfLink                   any               `json:"selfLink"`
	UID                        any               `json:"uid"`
	ResourceVersion            any               `json:"resourceVersion"`
	Generation                 int64             `json:"generation"`
	CreationTimestamp          any               `json:"creationTimestamp"`
	DeletionTimestamp          any               `json:"deletionTimestamp"`
	DeletionGracePeriodSeconds any               `json:"deletionGracePeriodSeconds"`
	OwnerReferences            any               `json:"ownerReferences"`
	Finalizers                 any               `json:"finalizers"`
	ManagedFields              any               `json:"managedFields"`
	ClusterName                any               `json:"clusterName"`
}

// read finds the resources of one file.
func (b *builder) read(f File) []*object {
	docs, line, err := documents(f)
	if err != nil {
		b.report(Finding{Code: codeSyntax, Severity: Error, File: f.Name, Line: line, Message: err.Error(), Refused: true})
		return nil
	}
	var out []*object
	for _, d := range docs {
		out = append(out, b.resource(f, d, 0)...)
	}
	return out
}

func (b *builder) resource(f File, n *yaml.Node, depth int) []*object {
	o := &object{root: n, ref: mesh.Ref{File: f.Name, Line: n.Line}, size: len(f.Data)}
	if n.Kind != yaml.MappingNode {
		b.refuse(o, codeHeader, "", "a resource must be a mapping with apiVersion, kind and metadata, not %s", describe(n))
		return nil
	}
	o.ref.Kind = text(child(n, "kind"))
	o.apiVersion = text(child(n, "apiVersion"))
	meta := child(n, "metadata")
	o.ref.Name, o.ref.Namespace = text(child(meta, "name")), text(child(meta, "namespace"))
	switch {
	case o.ref.Kind == "":
		b.refuse(o, codeHeader, "kind", "a resource must say its kind, such as kind: VirtualService")
		return nil
	case o.apiVersion == "":
		b.refuse(o, codeHeader, "apiVersion", "a resource must say its apiVersion, such as networking.istio.io/v1")
		return nil
	}
	var ok bool
	if o.group, o.version, ok = strings.Cut(o.apiVersion, "/"); !ok {
		o.group, o.version = "", o.apiVersion
	}
	if items := child(n, "items"); strings.HasSuffix(o.ref.Kind, "List") && items != nil && items.Kind == yaml.SequenceNode {
		if depth > 2 {
			b.refuse(o, codeLimit, "items", "lists within lists within lists are not read: write the resources out")
			return nil
		}
		var out []*object
		for _, i := range items.Content {
			if i = resolve(i); !isNull(i) {
				out = append(out, b.resource(f, i, depth+1)...)
			}
		}
		return out
	}
	k, wrong := lookup(o.group, o.version, o.ref.Kind)
	if wrong != "" {
		b.refuse(o, codeUnknownKind, "kind", "%s", wrong)
		return nil
	}
	o.clustered = k.clustered
	if o.clustered {
		o.ref.Namespace = ""
	} else if o.ref.Namespace == "" {
		o.ref.Namespace = b.opt.Namespace
	}
	switch k.treatment {
	case skipped:
		b.note(o, codeKindSkipped, Info, "", "a %s does not matter to the mesh: skipped", k.name)
		return nil
	case template:
		b.podTemplate(o)
		return nil
	case ignored:
		advice := instead[o.group+"/"+k.name]
		if advice != "" {
			advice = "; " + advice
		}
		b.note(o, codeKindIgnored, Warning, "kind", "%s (%s) is not implemented in this version: it has no effect%s", k.name, o.group, advice)
		return nil
	case refused:
		b.refuse(o, codeSecurity, "kind", "%s (%s) is not implemented in this version: refused rather than run open; remove it only if the mesh may run without it", k.name, o.group)
		return nil
	}
	var h header
	d := &decoder{b: b, obj: o}
	rest := *n
	rest.Content = nil
	list, dup := entries(n)
	if dup != nil {
		d.fail(codeDuplicateKey, dup.Value, dup, "the key %q is written twice: remove one", clip(dup.Value))
	}
	for _, e := range list {
		switch e.key {
		case "apiVersion", "kind", "metadata":
			rest.Content = append(rest.Content, e.keyNode, e.value)
		case "spec", "status":
		default:
			d.unknown("", e, []string{"apiVersion", "kind", "metadata", "spec", "status"})
		}
	}
	d.value(&rest, reflect.ValueOf(&h).Elem(), "", 0)
	o.labels, o.annotations, o.generation = h.Metadata.Labels, h.Metadata.Annotations, h.Metadata.Generation
	switch {
	case o.ref.Name == "":
		d.fail(codeHeader, "metadata.name", nil, "a resource must have a name")
	case len(o.ref.Name) > 253 || !resourceName.MatchString(o.ref.Name):
		d.fail(codeHeader, "metadata.name", nil, "%q is no name of a resource: use small letters, digits, - and ., with a letter or a digit at both ends", clip(o.ref.Name))
	case len(o.ref.Namespace) > 63 || o.ref.Namespace != "" && (!resourceName.MatchString(o.ref.Namespace) || strings.Contains(o.ref.Namespace, ".")):
		d.fail(codeHeader, "metadata.namespace", nil, "%q is no name of a namespace: use small letters, digits and -, with a letter or a digit at both ends", clip(o.ref.Namespace))
	}
	o.bad = d.bad
	return []*object{o}
}

// resourceName is what Kubernetes takes for a name (RFC 1123's subdomain).
// Another would make a host that no lower-cased look-up finds.
var resourceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

type objectKey struct{ group, kind, namespace, name string }

func (o *object) key() objectKey {
	return objectKey{o.group, o.ref.Kind, o.ref.Namespace, o.ref.Name}
}

// unique drops what is written a second time.
func (b *builder) unique(objects []*object) []*object {
	first := map[objectKey]*object{}
	out := objects[:0]
	for _, o := range objects {
		k := o.key()
		if o.bad {
			out = append(out, o)
			continue
		}
		if w := first[k]; w != nil {
			b.note(o, codeTwice, Error, "metadata.name", "is written twice: the one at %s holds, this one has no effect; rename or remove it", at(w.ref))
			continue
		}
		first[k] = o
		o.order = len(out)
		out = append(out, o)
		b.objects[o.ref] = o
	}
	return out
}

// at is where a resource stands.
func at(r mesh.Ref) string {
	f := Finding{File: r.File, Line: r.Line, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
	if r.File == "" {
		return f.Resource()
	}
	return f.Position()
}

// name is how a message names a resource: KIND NAMESPACE/NAME (FILE:LINE).
func name(r mesh.Ref) string {
	f := Finding{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
	if r.File == "" {
		return f.Resource()
	}
	return f.Resource() + " (" + at(r) + ")"
}

func (b *builder) decode(o *object) {
	switch o.group + "/" + o.ref.Kind {
	case "/Service":
		b.service(o)
	case "networking.istio.io/ServiceEntry":
		b.serviceEntry(o)
	case "networking.istio.io/WorkloadEntry":
		b.workloadEntry(o)
	case "networking.istio.io/VirtualService":
		b.virtualService(o)
	case "networking.istio.io/DestinationRule":
		b.destinationRule(o)
	case "networking.istio.io/Sidecar":
		b.sidecar(o)
	case "security.istio.io/PeerAuthentication":
		b.peerAuthentication(o)
	case "security.istio.io/AuthorizationPolicy":
		b.authorization(o)
	case "authentication.istio.io/Policy", "authentication.istio.io/MeshPolicy":
		b.legacyPolicy(o)
	case gatewayGroup + "/HTTPRoute":
		b.httpRoute(o)
	case gatewayGroup + "/GRPCRoute":
		b.grpcRoute(o)
	case "telemetry.istio.io/Telemetry":
		b.telemetry(o)
	case trafficGroup + "/RateLimit":
		b.rateLimit(o)
	case localGroup + "/Workload":
		b.local(o)
	case localGroup + "/Gateway":
		b.localGateway(o)
	}
}

// spec decodes o's spec into m. It reports each field that is set and not in
// known, and returns the paths of those that ask for something (see lacks). ok is
// false if o is refused.
func (b *builder) spec(o *object, m proto.Message, known *fieldSet) (unsupported []string, ok bool) {
	d := &decoder{b: b, obj: o, known: known}
	n := child(o.tree(), "spec")
	if isNull(n) {
		return nil, true
	}
	d.message(n, m.ProtoReflect(), "spec", "", false, 0)
	return d.unsupported, !d.bad
}

func (b *builder) unsupported(o *object, path string) {
	b.note(o, codeUnsupported, Warning, path, "is not implemented in this version")
}

// goSpec is spec for our own types.
func (b *builder) goSpec(o *object, v any) bool {
	d := &decoder{b: b, obj: o}
	n := child(o.tree(), "spec")
	if isNull(n) {
		return true
	}
	d.value(n, reflect.ValueOf(v).Elem(), "spec", 0)
	return !d.bad
}

// fqdn is Istio's rule for short names: a name without a dot is one of the
// resource's own namespace; every other stands as it is.
func (b *builder) fqdn(host, namespace string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || host == "*" || strings.Contains(host, ".") || strings.Contains(host, ":") {
		return host
	}
	return host + "." + namespace + ".svc." + b.settings.ClusterDomain
}

// rootNamespace lets the root be istio-system, as nearly every Istio resource
// found anywhere has it, where nobody said which it is and nothing is in ours.
func (b *builder) rootNamespace(objects []*object) {
	const istio = "istio-system"
	if b.settings.RootNamespace != mesh.DefaultSettings().RootNamespace || b.opt.MeshConfig != nil && b.rootStated() {
		return
	}
	var theirs *object
	for _, o := range objects {
		if o.ref.Kind != "PeerAuthentication" && o.ref.Kind != "AuthorizationPolicy" && o.ref.Kind != "DestinationRule" {
			continue
		}
		if o.ref.Namespace == b.settings.RootNamespace {
			theirs = nil
			break
		}
		if o.ref.Namespace == istio && theirs == nil {
			theirs = o
		}
	}
	if theirs != nil {
		b.settings.RootNamespace = istio
		b.note(theirs, codeRootNamespace, Info, "metadata.namespace", "%s is taken as the root namespace, where policies hold for the whole mesh", istio)
	}
}

func (b *builder) rootStated() bool {
	docs, _, err := documents(*b.opt.MeshConfig)
	if err != nil {
		return false
	}
	for _, d := range docs {
		if n := child(d, "rootNamespace"); text(n) != "" {
			return true
		}
	}
	return false
}

// sortedKeys are the keys of m in their order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
