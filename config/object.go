package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Object is what Build reads of an object of a cluster.
type Object struct {
	APIVersion, Kind, Namespace, Name string
	Generation                        int64 // metadata.generation; 0: the kind has none
	Labels, Annotations               map[string]string
	Spec                              any // as encoding/json decodes or encodes it
}

// JSON is o as Resource.Data has it, the same for the same content: without what
// the cluster adds for itself, and of annotations those alone that can say
// something to a mesh.
func (o *Object) JSON() ([]byte, error) {
	type metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace,omitempty"`
		Generation  int64             `json:"generation,omitempty"`
		Labels      map[string]string `json:"labels,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	var said map[string]string
	for k, v := range o.Annotations {
		domain, _, _ := strings.Cut(k, "/")
		if domain == "seine.dev" || strings.HasSuffix(domain, ".seine.dev") || domain == "istio.io" || strings.HasSuffix(domain, ".istio.io") {
			if said == nil {
				said = map[string]string{}
			}
			said[k] = v
		}
	}
	data, err := json.Marshal(struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Metadata   metadata `json:"metadata"`
		Spec       any      `json:"spec,omitempty"`
	}{o.APIVersion, o.Kind, metadata{o.Name, o.Namespace, o.Generation, o.Labels, said}, o.Spec})
	if err != nil {
		return nil, fmt.Errorf("config: %s %s/%s: %w", o.Kind, o.Namespace, o.Name, err)
	}
	return data, nil
}
