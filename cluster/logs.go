package cluster

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Logs is what a container of a pod wrote, its last tail lines (negative: all), and
// with follow what it writes until ctx ends. container "": the pod's default one.
// It needs get on pods/log.
func Logs(ctx context.Context, cfg *rest.Config, namespace, pod, container string, follow bool, tail int) (io.ReadCloser, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: logs of %s/%s: %w", namespace, pod, err)
	}
	o := &corev1.PodLogOptions{Container: container, Follow: follow}
	if tail >= 0 {
		n := int64(tail)
		o.TailLines = &n
	}
	r, err := client.CoreV1().Pods(namespace).GetLogs(pod, o).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("cluster: logs of %s/%s: %w", namespace, pod, err)
	}
	return r, nil
}
