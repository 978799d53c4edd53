//go:build kube

package kube

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// TestReplicas: three seined, one of which leads. Each knows its own proxies, all of
// them together say how far a resource has come, and the end of the leader costs
// nobody a request. Then the root is replaced, through all of them.
func TestReplicas(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	t.Cleanup(func() { upgrade(t, c, "--reset-values") })
	upgrade(t, c, "--set", "ha=true")
	n := c.Namespace(t, "replicas", map[string]string{"seine.dev/inject": "enabled"})
	n.Apply(t, replicas)
	n.WaitReady(t, "server")
	load := n.Load(t, "load", 20, "-timeout", patient, "-host", "server", serviceURL(t, n, "server"))
	fresh := n.Load(t, "fresh", 10, "-timeout", patient, "-keepalive=false", "-host", "server", serviceURL(t, n, "server"))
	const sidecars = 5 // three servers, two loads

	by := proxies(t, n, sidecars)
	if len(by) < 2 {
		t.Logf("all proxies are with one replica: %v", by) // chance decides
	}
	route(t, n, "one", sidecars)

	t.Run("the leader ends", func(t *testing.T) {
		leader := holder(t, c)
		noFailure(t, load, fresh, func() {
			now := int64(0)
			if err := c.Client.CoreV1().Pods(kubetest.System).Delete(t.Context(), leader, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
				t.Fatal(err)
			}
			kubetest.Wait(t, kubetest.Patience, "another leader", func(context.Context) error {
				if h := holder(t, c); h == leader || h == "" {
					return fmt.Errorf("%s leads", h)
				}
				return nil
			})
			proxies(t, n, sidecars)
		})
		// The new leader writes what all replicas' proxies have.
		route(t, n, "two", sidecars)
	})

	t.Run("the root is replaced", func(t *testing.T) {
		kubetest.Wait(t, kubetest.Patience, "three replicas", func(ctx context.Context) error {
			d, err := c.Client.AppsV1().Deployments(kubetest.System).Get(ctx, "seined", metav1.GetOptions{})
			if err == nil && d.Status.ReadyReplicas != 3 {
				err = fmt.Errorf("%d are ready", d.Status.ReadyReplicas)
			}
			return err
		})
		before := roots(t, n)
		noFailure(t, load, fresh, func() {
			out := c.Seine(t, "ca", "rotate", "--context", current(t), "--timeout", "4m")
			t.Logf("%s", out)
		})
		var after []*x509.Certificate
		kubetest.Wait(t, kubetest.Patience, "the new root alone in the namespace", func(context.Context) error {
			if after = roots(t, n); len(after) != 1 || after[0].Equal(before[0]) {
				return fmt.Errorf("%d roots, the first made %s", len(after), after[0].NotBefore)
			}
			return nil
		})
		// A pod that comes now knows only the new root, and is called by those from before.
		noFailure(t, load, fresh, func() {
			restart(t, n, "server")
			n.WaitReady(t, "server")
		})
	})
}

// upgrade changes the installation's values.
func upgrade(t *testing.T, c *kubetest.Cluster, args ...string) {
	t.Helper()
	c.Seine(t, slices.Concat([]string{"upgrade", "--yes"}, args, kubetest.Images())...)
}

// holder is who has the Lease of the control plane's leader.
func holder(t *testing.T, c *kubetest.Cluster) string {
	t.Helper()
	l, err := c.Client.CoordinationV1().Leases(kubetest.System).Get(t.Context(), "seined-leader", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l.Spec.HolderIdentity == nil || time.Since(l.Spec.RenewTime.Time) > 30*time.Second {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// noFailure has something happen under loads that must not see it.
func noFailure(t *testing.T, load, fresh *kubetest.Load, happen func()) {
	t.Helper()
	before := fresh.Counts(t)
	kept := load.During(t, happen)
	renewed := fresh.Counts(t).Since(before)
	t.Logf("%d requests on kept connections, %d on new ones", kept.Sent, renewed.Sent)
	if kept.Failed()+renewed.Failed() > 0 {
		t.Errorf("failures on kept connections %v, on new ones %v", kept.Failures, renewed.Failures)
	}
}

// serviceURL is a Service's by its address: cluster DNS has a life of its own.
func serviceURL(t *testing.T, n *kubetest.Namespace, service string) string {
	t.Helper()
	s, err := n.Client.CoreV1().Services(n.Name).Get(t.Context(), service, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + s.Spec.ClusterIP + "/"
}

// proxies waits until so many of the namespace's are connected and current, and
// returns how many are with which replica.
func proxies(t *testing.T, n *kubetest.Namespace, want int) map[string]int {
	t.Helper()
	var by map[string]int
	kubetest.Wait(t, kubetest.Patience, fmt.Sprintf("%d proxies", want), func(context.Context) error {
		var list []struct {
			ID, Replica string
			Current     bool
		}
		if err := json.Unmarshal([]byte(n.Seine(t, "proxies", "--context", current(t), "-o", "json")), &list); err != nil {
			return err
		}
		by = map[string]int{}
		is := 0
		for _, p := range list {
			if strings.HasPrefix(p.ID, n.Name+"/") && p.Current {
				by[p.Replica]++
				is++
			}
		}
		if is != want {
			return fmt.Errorf("%d are connected and current: %v", is, by)
		}
		return nil
	})
	return by
}

// route writes a route and waits until all proxies have it, as its status says.
func route(t *testing.T, n *kubetest.Namespace, value string, proxies int) {
	t.Helper()
	n.Apply(t, `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server}
spec:
  hosts: [server]
  http:
  - headers: {response: {set: {x-route: `+value+`}}}
    route: [{destination: {host: server}}]
`)
	var waited struct {
		Met     bool
		Message string
	}
	out := n.Seine(t, "wait", "--for=programmed", "virtualservice/server", "-n", n.Name, "-o", "json")
	if err := json.Unmarshal([]byte(out), &waited); err != nil || !waited.Met || !strings.Contains(waited.Message, "proxies have acknowledged") {
		t.Errorf("seine wait: %v, %s", err, out)
	}
	var has, of int
	if _, err := fmt.Sscanf(waited.Message, "%d of %d proxies", &has, &of); err != nil || has != of || of < proxies {
		t.Errorf("%q: want all, and at least %d", waited.Message, proxies)
	}
}

// roots are those of the namespace's trust bundle.
func roots(t *testing.T, n *kubetest.Namespace) (out []*x509.Certificate) {
	t.Helper()
	m, err := n.Client.CoreV1().ConfigMaps(n.Name).Get(t.Context(), "seine-ca-root", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rest := []byte(m.Data["root-cert.pem"])
	for {
		var block *pem.Block
		if block, rest = pem.Decode(bytes.TrimSpace(rest)); block == nil {
			return out
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, root)
	}
}
