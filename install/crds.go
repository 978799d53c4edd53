package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// bundleVersion is the annotation by which Gateway API's definitions say what
// release they are of.
const bundleVersion = "gateway.networking.k8s.io/bundle-version"

// contentMark is the annotation that says of what a definition was made.
const contentMark = "seine.dev/content"

// CRDs returns the custom resource definitions of the chart: Istio's, its legacy
// authentication API, and Gateway API's standard channel. Each carries the label
// LabelPartOf, by which an installation knows its own from somebody else's.
func CRDs() ([]*unstructured.Unstructured, error) {
	entries, err := fs.ReadDir(chartFiles, "chart/crds")
	if err != nil {
		return nil, fmt.Errorf("install: embedded definitions: %w", err)
	}
	var crds []*unstructured.Unstructured
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		data, err := chartFiles.ReadFile("chart/crds/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("install: embedded definitions: %w", err)
		}
		found, err := Decode(data)
		if err != nil {
			return nil, fmt.Errorf("install: embedded definitions: %s: %w", e.Name(), err)
		}
		for _, u := range found {
			if err := mark(u); err != nil {
				return nil, err
			}
		}
		crds = append(crds, found...)
	}
	if len(crds) == 0 {
		return nil, errors.New("install: no definitions are embedded")
	}
	return crds, nil
}

// mark notes what a definition says on it, so that Same can tell without
// comparing what the API server made of it.
func mark(u *unstructured.Unstructured) error {
	data, err := u.MarshalJSON()
	if err != nil {
		return fmt.Errorf("install: embedded definition %s: %w", u.GetName(), err)
	}
	notes := u.GetAnnotations()
	if notes == nil {
		notes = map[string]string{}
	}
	sum := sha256.Sum256(data)
	notes[contentMark] = hex.EncodeToString(sum[:8])
	u.SetAnnotations(notes)
	return nil
}

// Same reports whether the live definition was made of the very same.
func Same(ours, live *unstructured.Unstructured) bool {
	m := ours.GetAnnotations()[contentMark]
	return m != "" && m == live.GetAnnotations()[contentMark]
}

// ServedVersions returns the versions that a definition serves.
func ServedVersions(crd *unstructured.Unstructured) []string {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var served []string
	for _, v := range versions {
		if m, ok := v.(map[string]any); ok && m["served"] == true {
			if name, ok := m["name"].(string); ok {
				served = append(served, name)
			}
		}
	}
	return served
}

// Older reports whether definition a is of an older Gateway API release than b.
// Definitions that do not say are never older.
func Older(a, b *unstructured.Unstructured) bool {
	x, okX := release(a.GetAnnotations()[bundleVersion])
	y, okY := release(b.GetAnnotations()[bundleVersion])
	if !okX || !okY {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

// release parses vMAJOR.MINOR.PATCH, ignoring what follows a hyphen.
func release(s string) (r [3]int, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "-")
	parts := strings.Split(s, ".")
	if len(parts) != len(r) {
		return r, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return r, false
		}
		r[i] = n
	}
	return r, true
}
