package kubetest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Everything names every object of the cluster, as KIND NAMESPACE/NAME, but
// Events, which nobody takes away, the nodes' heartbeats, and what is in
// namespaces that are going.
func (c *Cluster) Everything(t testing.TB) []string {
	t.Helper()
	c.mapper.Reset()
	groups, err := c.Client.Discovery().ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		t.Fatal(err)
	}
	going := map[string]bool{corev1.NamespaceNodeLease: true}
	namespaces, err := c.Client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range namespaces.Items {
		going[n.Name] = going[n.Name] || n.DeletionTimestamp != nil
	}
	var all []string
	for _, g := range groups {
		gv, err := schema.ParseGroupVersion(g.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range g.APIResources {
			if !slices.Contains(r.Verbs, "list") || r.Kind == "Event" {
				continue
			}
			list, err := c.Dynamic.Resource(gv.WithResource(r.Name)).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatalf("list %s: %v", r.Name, err)
			}
			for _, o := range list.Items {
				if !going[o.GetNamespace()] && (r.Kind != "Namespace" || !going[o.GetName()]) {
					all = append(all, fmt.Sprintf("%s %s/%s", r.Kind, o.GetNamespace(), o.GetName()))
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// Uninstall takes away whatever of the mesh is there, and waits until it is gone.
func (c *Cluster) Uninstall(t testing.TB) {
	t.Helper()
	if r := c.Run(t, "uninstall", "--yes", "--force", "--purge"); r.Code != 0 && !strings.Contains(r.Stderr, "not installed") {
		t.Fatalf("seine uninstall: %s%s", r.Stdout, r.Stderr)
	}
}

// Kubeconfig writes a kubeconfig for another way into the cluster and returns
// its path.
func Kubeconfig(t testing.TB, config *rest.Config) string {
	t.Helper()
	k := clientcmdapi.NewConfig()
	k.Clusters["test"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile, InsecureSkipTLSVerify: config.Insecure}
	k.AuthInfos["test"] = &clientcmdapi.AuthInfo{Token: config.BearerToken}
	k.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	k.CurrentContext = "test"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*k, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// WaitNone waits until no pod that selector selects is left in the namespace.
func (n *Namespace) WaitNone(t testing.TB, selector string) {
	t.Helper()
	Wait(t, Patience, "pods "+selector+" to be gone", func(ctx context.Context) error {
		list, err := n.Client.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are there", len(list.Items))
		}
		return err
	})
}
