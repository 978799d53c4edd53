package install

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// The names that installation, check and control plane agree on.
const (
	// Namespace is where the control plane lives unless told otherwise.
	Namespace = "seine-system"
	// DefaultRevision is the control plane whose names have no suffix.
	DefaultRevision = "default"
	// LabelPartOf with the value PartOf marks all that an installation made.
	LabelPartOf = "app.kubernetes.io/part-of"
	PartOf      = "seine"
	// LabelRevision tells control planes side by side apart.
	LabelRevision = "seine.dev/revision"
	// LabelManagedBy says which tool made an object.
	LabelManagedBy = "app.kubernetes.io/managed-by"
)

// Options say what to render.
type Options struct {
	Namespace string         // of the control plane; empty: Namespace
	Values    map[string]any // over the chart's own
	Version   string         // of the images, unless the values name a tag
}

// Render returns the chart's objects without the custom resource definitions, in
// the order in which they are to be applied: what others need first, webhook
// configurations last. Errors of the user's values wrap ErrValues.
func Render(ctx context.Context, o Options) ([]*unstructured.Unstructured, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	if o.Version != "" {
		c.Metadata.AppVersion = o.Version
	}
	namespace := cmp.Or(o.Namespace, Namespace)
	values, err := util.ToRenderValues(c, o.Values, common.ReleaseOptions{Name: "seine", Namespace: namespace, Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; install/chart/values.yaml lists them", ErrValues, err)
	}
	// Helm calls itself the service; what this renders, Seine manages.
	values["Release"].(map[string]any)["Service"] = "seine"
	files, err := engine.Engine{Strict: true}.RenderWithContext(ctx, c, values)
	if err != nil {
		return nil, fmt.Errorf("%w: render the chart: %w", ErrValues, err)
	}
	var objects []*unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".tpl") || strings.HasSuffix(name, ".txt") {
			continue
		}
		found, err := Decode([]byte(files[name]))
		if err != nil {
			return nil, fmt.Errorf("%w: %s renders badly: %w", ErrValues, name, err)
		}
		objects = append(objects, found...)
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return cmp.Compare(rank(a.GetKind()), rank(b.GetKind()))
	})
	return objects, nil
}

// Revision returns the revision that values ask for.
func Revision(values map[string]any) string {
	if r, ok := values["revision"].(string); ok && r != "" {
		return r
	}
	return DefaultRevision
}

// Name is base with the revision's suffix, as the chart names its objects.
func Name(base, revision string) string {
	if revision == "" || revision == DefaultRevision {
		return base
	}
	return base + "-" + revision
}

// order of kinds that need each other; what is not listed comes before the
// webhook configurations, which only make sense when something answers them.
var order = []string{"Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "Service", "PodDisruptionBudget", "DaemonSet", "Deployment"}

func rank(kind string) int {
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	if strings.HasSuffix(kind, "WebhookConfiguration") {
		return len(order) + 1
	}
	return len(order)
}

// Decode reads the documents of a YAML stream, skipping empty ones.
func Decode(data []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(doc, &u.Object); err != nil {
			return nil, err
		}
		if len(u.Object) == 0 {
			continue
		}
		if u.GetKind() == "" || u.GetAPIVersion() == "" || u.GetName() == "" {
			return nil, fmt.Errorf("an object without apiVersion, kind or name: %.80q", doc)
		}
		objects = append(objects, u)
	}
}

// WriteYAML writes objects as one stream for kubectl.
func WriteYAML(w io.Writer, objects []*unstructured.Unstructured) error {
	for _, u := range objects {
		data, err := yaml.Marshal(u.Object)
		if err != nil {
			return fmt.Errorf("install: %s %s: %w", u.GetKind(), u.GetName(), err)
		}
		if _, err := fmt.Fprintf(w, "---\n%s", data); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes objects as one List for kubectl.
func WriteJSON(w io.Writer, objects []*unstructured.Unstructured) error {
	list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
	for _, u := range objects {
		list.Items = append(list.Items, *u)
	}
	var b bytes.Buffer
	if err := unstructured.UnstructuredJSONScheme.Encode(list, &b); err != nil {
		return fmt.Errorf("install: write JSON: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}
