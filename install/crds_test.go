package install

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var update = flag.Bool("update", false, "write the goldens and the copies of the definitions")

// kubectlLimit is what annotations may hold together; `kubectl apply` keeps the
// whole object in one.
const kubectlLimit = 256 << 10

// The definitions in the chart are those of the modules that go.mod pins, but
// for the labels of Istio's own helm release, which this is not, and ours.
func TestCRDsAreTheModules(t *testing.T) {
	istio := filepath.Join(moduleDir(t, "istio.io/api"), "kubernetes", "customresourcedefinitions.gen.yaml")
	gateway, err := filepath.Glob(filepath.Join(moduleDir(t, "sigs.k8s.io/gateway-api"), "config", "crd", "standard", "*.yaml"))
	if err != nil || len(gateway) == 0 {
		t.Fatalf("no definitions of Gateway API: %v", err)
	}
	for name, files := range map[string][]string{"istio.yaml": {istio}, "gateway-api.yaml": gateway} {
		var out bytes.Buffer
		out.WriteString("# Copied from the module that go.mod pins, Apache License 2.0 (see NOTICE), by\n# `go test ./install -run TestCRDsAreTheModules -update`. Do not edit.\n")
		var crds []*unstructured.Unstructured
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found, err := Decode(data)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			crds = append(crds, slices.DeleteFunc(found, func(u *unstructured.Unstructured) bool { return u.GetKind() != "CustomResourceDefinition" })...)
		}
		for _, u := range crds {
			labels := u.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			for _, l := range []string{"app", "chart", "heritage", "release"} {
				delete(labels, l)
			}
			labels[LabelPartOf] = PartOf
			u.SetLabels(labels)
		}
		if err := WriteYAML(&out, crds); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("chart", "crds", name)
		if *update {
			if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, out.Bytes()) {
			t.Errorf("%s is not what the module holds (%v): run this test with -update and read the difference", path, err)
		}
	}
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("go list -m %s: %v; run go mod download", module, err)
	}
	return dir
}

func TestCRDs(t *testing.T) {
	crds, err := CRDs()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]string{}
	for _, u := range crds {
		if u.GetLabels()[LabelPartOf] != PartOf {
			t.Errorf("%s has no label %s", u.GetName(), LabelPartOf)
		}
		data, err := json.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > kubectlLimit-2048 {
			t.Errorf("%s is %d bytes: `kubectl apply` cannot take it", u.GetName(), len(data))
		}
		served[u.GetName()] = strings.Join(ServedVersions(u), " ")
	}
	for name, want := range map[string]string{
		"virtualservices.networking.istio.io":       "v1 v1alpha3 v1beta1",
		"destinationrules.networking.istio.io":      "v1 v1alpha3 v1beta1",
		"serviceentries.networking.istio.io":        "v1 v1alpha3 v1beta1",
		"peerauthentications.security.istio.io":     "v1 v1beta1",
		"authorizationpolicies.security.istio.io":   "v1 v1beta1",
		"telemetries.telemetry.istio.io":            "v1 v1alpha1",
		"wasmplugins.extensions.istio.io":           "v1alpha1",
		"meshpolicies.authentication.istio.io":      "v1alpha1",
		"policies.authentication.istio.io":          "v1alpha1",
		"httproutes.gateway.networking.k8s.io":      "v1 v1beta1",
		"grpcroutes.gateway.networking.k8s.io":      "v1",
		"gateways.gateway.networking.k8s.io":        "v1 v1beta1",
		"referencegrants.gateway.networking.k8s.io": "v1 v1beta1",
	} {
		if served[name] != want {
			t.Errorf("%s serves %q, want %q", name, served[name], want)
		}
	}
	t.Logf("%d definitions", len(crds))
}

func TestOlder(t *testing.T) {
	crd := func(v string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetAnnotations(map[string]string{bundleVersion: v})
		return u
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"v1.2.0", "v1.10.0", true}, {"v1.10.0", "v1.2.0", false}, {"v1.6.1", "v1.6.1", false},
		{"v1.6.0-rc1", "v1.6.1", true}, {"", "v1.6.1", false}, {"v1.6", "v1.6.1", false}, {"v2.0.0", "v1.6.1", false}, {"v1.x.1", "v1.6.1", false},
	} {
		if got := Older(crd(c.a), crd(c.b)); got != c.want {
			t.Errorf("Older(%q, %q) = %v", c.a, c.b, got)
		}
	}
}
