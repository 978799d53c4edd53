package install

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func render(t *testing.T, settings ...string) []*unstructured.Unstructured {
	t.Helper()
	values, err := ParseValues(nil, settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Render(t.Context(), Options{Values: values, Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func TestRender(t *testing.T) {
	for name, settings := range map[string][]string{
		"default": {"namespace.create=true"},
		"ha":      {"ha=true", "image.registry=registry.example.com/mirror", "image.pullSecrets={pull}"},
		"canary": {"revision=canary", "cni.enabled=true", "injection.repair=true", "injection.istioLabels=false", "validation.enabled=false", "meshConfig.trustDomain=example.org",
			"networkPolicy.enabled=true", "networkPolicy.apiServers={10.0.0.1/32,fd00::/64}", "webhooks.clientCA=-----BEGIN CERTIFICATE-----", "monitoring.operator=true", "monitoring.labels.release=prometheus"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := WriteYAML(&out, render(t, settings...)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("%s (-want +got); if that is meant, run with -update:\n%s", path, diff)
			}
		})
	}
}

// What the schema does not know is refused, with the value's name.
func TestValuesRefused(t *testing.T) {
	for setting, want := range map[string]string{
		"replica=2":                          "replica",
		"replicas=many":                      "replicas",
		"revision=-x":                        "revision",
		"revision=Default":                   "revision",
		"injection.failurePolicy=Sometimes":  "failurePolicy",
		"image.tag=a b":                      "tag",
		"resources.requests.memory=lots":     "memory",
		"sidecar.unknown=1":                  "unknown",
		"cni.binDir=opt/cni":                 "binDir",
		"logLevel=loud":                      "logLevel",
		"image.registry=http://example.com/": "registry",
	} {
		values, err := ParseValues(nil, []string{setting}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Render(t.Context(), Options{Values: values})
		if !errors.Is(err, ErrValues) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

func TestParseValues(t *testing.T) {
	files := map[string]string{"a.yaml": "ha: true\nimage: {tag: a, registry: r}\n", "b.yaml": "image: {tag: b}\n", "bad.yaml": "a: 1\na: 2\n"}
	read := func(name string) ([]byte, error) {
		if data, ok := files[name]; ok {
			return []byte(data), nil
		}
		return nil, os.ErrNotExist
	}
	got, err := ParseValues([]string{"a.yaml", "b.yaml"}, []string{"image.registry=s"}, read)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"ha": true, "image": map[string]any{"tag": "b", "registry": "s"}}, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ file, set, want string }{
		{"bad.yaml", "", "bad.yaml"}, {"none.yaml", "", "not exist"}, {"", "novalue", "KEY=VALUE"},
	} {
		var files, settings []string
		if c.file != "" {
			files = []string{c.file}
		}
		if c.set != "" {
			settings = []string{c.set}
		}
		if _, err := ParseValues(files, settings, read); !errors.Is(err, ErrValues) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
