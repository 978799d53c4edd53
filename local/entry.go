package local

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/seinemesh/seine/config"
)

// entry is what the control plane is told of one instance.
type entry struct {
	Namespace, Instance, App string
	ServiceAccount           string
	Labels                   map[string]string
	Ports                    []config.LocalPort
	Addr                     netip.Addr
	Sidecar, Gateway         bool
	Healthy                  bool
	Annotations              map[string]string // as described; those that seined reads are passed on
}

// encode writes the entry as a WorkloadEntry.
func (e *entry) encode() ([]byte, error) {
	labels := maps.Clone(e.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[config.LabelWorkload] = e.App
	annotations := map[string]string{}
	for _, k := range []string{config.AnnotationProxyProtocol, config.AnnotationProxyProtocolFrom} {
		if v, ok := e.Annotations[k]; ok {
			annotations[k] = v
		}
	}
	if e.Sidecar {
		annotations[config.AnnotationSidecar] = "true"
	}
	if e.Gateway {
		annotations[config.AnnotationGateway] = "true"
	}
	if !e.Healthy {
		annotations[config.AnnotationHealthy] = "false"
	}
	spec := map[string]any{"address": e.Addr.String(), "serviceAccount": e.ServiceAccount}
	ports := map[string]uint32{}
	for _, p := range e.Ports {
		if p.Name != "" {
			ports[p.Name] = p.Number
		}
	}
	if len(ports) > 0 {
		spec["ports"] = ports
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
		"metadata": map[string]any{"name": e.Instance, "namespace": e.Namespace, "labels": labels, "annotations": annotations},
		"spec":     spec,
	})
}

// entries is the folder of WorkloadEntries that seined watches.
type entries struct{ dir, temp string }

func (d entries) path(e *entry) string {
	return filepath.Join(d.dir, e.Namespace+"."+e.Instance+".yaml")
}

// write makes the entry visible, whole.
func (d entries) write(e *entry) error {
	data, err := e.encode()
	if err != nil {
		return fmt.Errorf("describe %s/%s: %w", e.Namespace, e.Instance, err)
	}
	temp := filepath.Join(d.temp, filepath.Base(d.path(e)))
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("describe %s/%s: %w", e.Namespace, e.Instance, err)
	}
	if err := os.Rename(temp, d.path(e)); err != nil {
		return fmt.Errorf("describe %s/%s: %w", e.Namespace, e.Instance, err)
	}
	return nil
}

// remove takes the entry away.
func (d entries) remove(e *entry) error {
	if err := os.Remove(d.path(e)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove %s/%s: %w", e.Namespace, e.Instance, err)
	}
	return nil
}
