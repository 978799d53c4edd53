package check

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// monitors says how a Prometheus finds the mesh.
func (c *Checker) monitors(context.Context) {
	kinds, err := c.Cluster.Kube.Discovery().ServerResourcesForGroupVersion("monitoring.coreos.com/v1")
	if err != nil && !apierrors.IsNotFound(err) {
		c.asked(nameMonitors, err)
		return
	}
	served := func(kind string) bool {
		return kinds != nil && slices.ContainsFunc(kinds.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind })
	}
	m, _ := c.Values["monitoring"].(map[string]any)
	c.line(judgeMonitors(served("PodMonitor") && served("ServiceMonitor"), m["operator"] == true))
}

const nameMonitors = "Prometheus"

func judgeMonitors(operator, wanted bool) (Status, string, string, string) {
	switch {
	case wanted && !operator:
		return Failed, nameMonitors, "monitoring.operator is set, and the cluster has no PodMonitor and ServiceMonitor (monitoring.coreos.com/v1)",
			"install the Prometheus operator first, or --set monitoring.operator=false: then a Prometheus finds pods by their annotations prometheus.io/…"
	case wanted:
		return OK, nameMonitors, "a PodMonitor finds every sidecar, a ServiceMonitor the control plane", ""
	case operator:
		return OK, nameMonitors, "the Prometheus operator is here: with --set monitoring.operator=true it finds the mesh by itself; without it, by the pods' annotations prometheus.io/… alone", ""
	}
	return OK, nameMonitors, "one that reads the pods' annotations prometheus.io/… finds the mesh", ""
}
