package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
)

// ManifestOptions say how manifests are read.
type ManifestOptions struct {
	Namespace string // of resources that name none; "": default
	Values    *Values
	// Say is told what a reader of the output should know: what was left alone
	// although one might have expected otherwise, and warnings. nil: not.
	Say func(resource, sentence string)
}

// templates are where each kind of workload keeps its pod.
var templates = map[string][]string{
	"Pod": {}, "Deployment": {"spec", "template"}, "ReplicaSet": {"spec", "template"}, "StatefulSet": {"spec", "template"},
	"DaemonSet": {"spec", "template"}, "ReplicationController": {"spec", "template"}, "Job": {"spec", "template"},
	"CronJob": {"spec", "jobTemplate", "spec", "template"}, "PodTemplate": {"template"},
	"DeploymentConfig": {"spec", "template"}, "Rollout": {"spec", "template"}, // OpenShift's, Argo's
}

// Manifest copies a stream of YAML documents and puts a sidecar into each
// workload, as the webhook would in a namespace that asks for it. Documents
// without one come out byte for byte; in the others comments and order stay.
func Manifest(in io.Reader, out io.Writer, o ManifestOptions) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("inject: read: %w", err)
	}
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.Say == nil {
		o.Say = func(string, string) {}
	}
	for i, d := range documents(text) {
		next, err := o.document(d.body)
		if err != nil {
			return fmt.Errorf("inject: document %d: %w", i+1, err)
		}
		if _, err := out.Write(append(d.marker, next...)); err != nil {
			return fmt.Errorf("inject: write: %w", err)
		}
	}
	return nil
}

// part is a document and the line that begins it, if there is one.
type part struct{ marker, body []byte }

// documents splits at the lines that begin with "---", which nothing else in
// YAML can (YAML 1.2 §9.1.2).
func documents(text []byte) []part {
	var out []part
	cur := part{}
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("---")) || len(line) > 3 && !bytes.ContainsAny(line[3:4], " \t\r\n") {
			cur.body = append(cur.body, line...)
			continue
		}
		if cur.marker != nil || len(cur.body) > 0 {
			out = append(out, cur)
		}
		cur = part{}
		if strings.TrimSpace(string(line[3:])) == "" || strings.HasPrefix(strings.TrimSpace(string(line[3:])), "#") {
			cur.marker = line
		} else { // the document begins on the line itself
			cur.marker, cur.body = []byte("---\n"), append(cur.body, line[3:]...)
		}
	}
	return append(out, cur)
}

func (o *ManifestOptions) document(text []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return text, nil // nothing but comments
	}
	left := maxNodes
	whole, err := expand(&doc, &left)
	if err != nil {
		return nil, err
	}
	changed, err := o.resource(whole.Content[0])
	if err != nil || !changed {
		return text, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(whole), e.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// resource reports whether it has changed anything.
func (o *ManifestOptions) resource(n *yaml.Node) (changed bool, err error) {
	kind := scalar(n, "kind")
	if kind == "List" || strings.HasSuffix(kind, "List") {
		items := child(n, "items", false)
		if items == nil || items.Kind != yaml.SequenceNode {
			return false, nil
		}
		for i := range items.Content {
			one, err := o.resource(items.Content[i])
			if err != nil {
				return false, err
			}
			changed = changed || one
		}
		return changed, nil
	}
	path, ok := templates[kind]
	if !ok {
		return false, nil
	}
	meta := child(n, "metadata", false)
	name := kind + "/" + scalar(meta, "name")
	namespace := scalar(meta, "namespace")
	if namespace == "" {
		namespace = o.Namespace
	}
	at := n
	for _, step := range path {
		if at = child(at, step, false); at == nil {
			return false, nil // no pod in it
		}
	}
	if at.Kind != yaml.MappingNode {
		return false, fmt.Errorf("%s: its pod is not a mapping", name)
	}
	pod, err := decode(at)
	if err != nil {
		return false, fmt.Errorf("%s: its pod cannot be read: %w", name, err)
	}
	r, err := Pod(pod, Namespace{Name: namespace, Labels: map[string]string{LabelInject: "enabled"}}, o.Values)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	if r.Skip != nil {
		o.Say(name, r.Skip.Detail)
		return false, nil
	}
	for _, w := range r.Warnings {
		o.Say(name, w)
	}
	if len(r.Patch) == 0 {
		return false, nil
	}
	child(at, "metadata", true)
	for _, op := range r.Patch {
		if err := apply(at, op); err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
	}
	return true, nil
}

// decode reads a pod or a template of one.
func decode(n *yaml.Node) (*corev1.Pod, error) {
	var tree map[string]any
	if err := n.Decode(&tree); err != nil {
		return nil, err
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	return pod, json.Unmarshal(b, pod)
}

// child is a mapping's value; made if it is not there and that is wanted, nil
// otherwise.
func child(n *yaml.Node, key string, create bool) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			v := n.Content[i+1]
			if create && v.Kind == yaml.ScalarNode && v.Tag == "!!null" {
				v = &yaml.Node{Kind: yaml.MappingNode}
			}
			n.Content[i+1] = v
			return v
		}
	}
	if !create {
		return nil
	}
	v := &yaml.Node{Kind: yaml.MappingNode}
	n.Content = append([]*yaml.Node{{Kind: yaml.ScalarNode, Value: key}, v}, n.Content...)
	return v
}

// maxNodes bounds a document whose aliases are written out.
const maxNodes = 1 << 20

// expand writes out what aliases stand for: to change one must not change the
// others. left is how many nodes it may still make.
func expand(n *yaml.Node, left *int) (*yaml.Node, error) {
	if *left--; *left < 0 {
		return nil, fmt.Errorf("its aliases stand for more than %d values", maxNodes)
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	c := *n
	c.Anchor, c.Content = "", nil
	for _, x := range n.Content {
		e, err := expand(x, left)
		if err != nil {
			return nil, err
		}
		c.Content = append(c.Content, e)
	}
	return &c, nil
}

func scalar(n *yaml.Node, key string) string {
	if v := child(n, key, false); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// apply makes one operation on a document, as RFC 6902 has it.
func apply(root *yaml.Node, op Operation) error {
	tokens := strings.Split(op.Path, "/")[1:]
	at := root
	for _, t := range tokens[:len(tokens)-1] {
		next, err := step(at, unescape(t))
		if err != nil {
			return fmt.Errorf("%s %s: %w", op.Op, op.Path, err)
		}
		at = next
	}
	last := unescape(tokens[len(tokens)-1])
	var value *yaml.Node
	if op.Op != "remove" {
		var err error
		if value, err = node(op.Value); err != nil {
			return err
		}
	}
	if at.Kind == yaml.SequenceNode {
		return applyList(at, op, last, value)
	}
	i := 0
	for i < len(at.Content) && at.Content[i].Value != last {
		i += 2
	}
	at.Style &^= yaml.FlowStyle
	switch {
	case op.Op == "remove" && i < len(at.Content):
		at.Content = slices.Delete(at.Content, i, i+2)
	case op.Op != "remove" && i < len(at.Content):
		at.Content[i+1] = value
	case op.Op == "add":
		at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: last}, value)
	default:
		return fmt.Errorf("%s %s: it is not there", op.Op, op.Path)
	}
	return nil
}

func applyList(at *yaml.Node, op Operation, last string, value *yaml.Node) error {
	i := len(at.Content)
	if last != "-" {
		if _, err := fmt.Sscanf(last, "%d", &i); err != nil || i < 0 || i > len(at.Content) {
			return fmt.Errorf("%s %s: no such place in the list", op.Op, op.Path)
		}
	}
	at.Style &^= yaml.FlowStyle
	switch {
	case op.Op == "add":
		at.Content = slices.Insert(at.Content, i, value)
	case op.Op == "replace" && i < len(at.Content):
		at.Content[i] = value
	default:
		return fmt.Errorf("%s %s: it is not there", op.Op, op.Path)
	}
	return nil
}

func step(n *yaml.Node, token string) (*yaml.Node, error) {
	if n.Kind == yaml.SequenceNode {
		i := 0
		if _, err := fmt.Sscanf(token, "%d", &i); err != nil || i < 0 || i >= len(n.Content) {
			return nil, fmt.Errorf("no item %s", token)
		}
		return n.Content[i], nil
	}
	if v := child(n, token, false); v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("no field %s", token)
}

// node is JSON as people write YAML.
func node(value json.RawMessage) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(value, &doc); err != nil || len(doc.Content) != 1 {
		return nil, fmt.Errorf("inject: a patch's value: %w", err)
	}
	plain(doc.Content[0])
	return doc.Content[0], nil
}

func plain(n *yaml.Node) {
	empty := n.Kind != yaml.ScalarNode && len(n.Content) == 0 // {} and []
	if !empty {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}
