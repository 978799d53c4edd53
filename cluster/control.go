package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Namespace is where a mesh's control plane is, unless somebody says otherwise.
const Namespace = "seine-system"

// ownNamespace is where a pod finds its own namespace.
const ownNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Control is a control plane's way into its cluster: the kubeconfig that
// KUBECONFIG names, or the service account of the pod that it runs in.
func Control() (*rest.Config, error) {
	var c *rest.Config
	var err error
	if path := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); path != "" {
		c, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("cluster: KUBECONFIG %s: %w", path, err)
		}
	} else if c, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("cluster: this is no pod of a cluster: set KUBECONFIG to a kubeconfig, or name files with --config")
	} else if err != nil {
		return nil, fmt.Errorf("cluster: the pod's service account: %w", err)
	}
	c.UserAgent = "seined"
	// Attestation asks twice for each certificate, and the API server has fairness of its own.
	c.QPS, c.Burst = 200, 400
	return c, nil
}

// OwnNamespace is that of the pod that this runs in, or Namespace.
func OwnNamespace() string {
	if b, err := os.ReadFile(ownNamespace); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b))
	}
	return Namespace
}
