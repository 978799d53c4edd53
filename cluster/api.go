package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// APIPort is where a control plane's API is, on its pod's loopback address.
const APIPort = 15016

// controlLabels select the pods of control planes.
const controlLabels = "app.kubernetes.io/name=seined"

// Replicas are the ready pods of the control plane in a namespace, those of the
// youngest first. There is at least one if err is nil.
func Replicas(ctx context.Context, cfg *rest.Config, namespace string) ([]string, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: controlLabels})
	if err != nil {
		return nil, fmt.Errorf("cluster: control planes of namespace %s: %w", namespace, err)
	}
	ready := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !isReady(&p) })
	switch {
	case len(list.Items) == 0:
		return nil, fmt.Errorf("cluster: %s has no control plane in namespace %s: install one (seine install), or say where it is with --system-namespace", cfg.Host, namespace)
	case len(ready) == 0:
		return nil, fmt.Errorf("cluster: none of the %d control planes in namespace %s is ready: see kubectl -n %s get pods", len(list.Items), namespace, namespace)
	}
	slices.SortFunc(ready, func(a, b corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var names []string
	for _, p := range ready {
		names = append(names, p.Name)
	}
	return names, nil
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Client speaks HTTP to the API of one control plane's pod, whatever host a URL
// names; its own name there is seined. Close its idle connections after use.
func Client(cfg *rest.Config, namespace, pod string, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return Forward(ctx, cfg, namespace, pod, APIPort)
		},
		MaxConnsPerHost: 2, IdleConnTimeout: time.Minute,
	}}
}
