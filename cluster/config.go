package cluster

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrNoCluster is wrapped by Config's error when nothing says which cluster.
var ErrNoCluster = errors.New("no cluster is configured")

// A person's command asks for much at once, and then ends.
const (
	qps   = 100
	burst = 200
)

// Options say which cluster, as kubectl's flags of the same names.
type Options struct {
	Kubeconfig string // empty: KUBECONFIG, ~/.kube/config, the pod's own account
	Context    string // empty: the file's current one
}

// AddFlags adds --kubeconfig and --context.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` that says how to reach the cluster (default: $KUBECONFIG, then ~/.kube/config)")
	f.StringVar(&o.Context, "context", "", "context of the kubeconfig file (default: its current one)")
}

// Config returns how to reach the cluster. Nothing is connected to yet.
func (o Options) Config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context}).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, fmt.Errorf("%w: set KUBECONFIG or --kubeconfig; `kubectl config view` shows what there is", ErrNoCluster)
	case err != nil:
		return nil, fmt.Errorf("cluster: %w; check --kubeconfig and --context", err)
	}
	cfg.QPS, cfg.Burst = qps, burst
	return cfg, nil
}
