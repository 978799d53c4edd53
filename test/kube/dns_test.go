//go:build kube

package kube

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// partners are two hosts that no DNS knows, on the same port of opaque TCP, which only
// their addresses tell apart.
const partners = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME}
spec:
  hosts: [NAME.partner.test]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 9001, name: tcp, protocol: TCP}]
  endpoints: [{address: ADDRESS}]
---
`

// asking are pods whose sidecars answer DNS, by Istio's setting and by ours, and one
// whose sidecar does not.
const asking = `
apiVersion: v1
kind: Pod
metadata: {name: istios, labels: {app: istios}, annotations: {proxy.istio.io/config: "proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}"}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, args: [pause]}]
---
apiVersion: v1
kind: Pod
metadata: {name: ours, labels: {app: ours}, annotations: {seine.dev/dns-capture: "true"}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, args: [pause]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, args: [pause]}]
`

const peers = `
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: server}, ports: [{name: http, port: 8080}]}
---
`

// TestDatagrams: where it is asked for the sidecar answers DNS, hosts of ServiceEntries
// that nobody else knows and all other names, with and without seined; and whatever
// else is no TCP passes a pod with a sidecar as it is.
func TestDatagrams(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	outside := c.Namespace(t, "partner", nil)
	outside.Apply(t, server)
	n := c.Namespace(t, "datagrams", injected)
	n.Apply(t, peers+asking+"---"+server)
	outside.WaitReady(t, "server")
	n.WaitReady(t, "server")
	address := map[string]string{}
	for i, p := range outside.Pods(t, "app=server") {
		address[[]string{"one", "two"}[i]] = p.Status.PodIP
	}
	host := map[string]string{} // what they call themselves
	for name, a := range address {
		n.Apply(t, strings.NewReplacer("NAME", name, "ADDRESS", a).Replace(partners))
		for _, p := range outside.Pods(t, "app=server") {
			if p.Status.PodIP == a {
				host[name] = p.Name
			}
		}
	}
	other := n.ReadyPod(t, "app=other").Name
	partner := func(ctx context.Context, pod string) error {
		for name, who := range host {
			out, err := n.Call(ctx, pod, "http://"+name+".partner.test/")
			if err != nil || !strings.Contains(out, who) || !strings.Contains(out, name+".partner.test") {
				return fmt.Errorf("%s by HTTP: %q, %w", name, out, err)
			}
			if out, err := n.Call(ctx, pod, "-protocol", "server-first", name+".partner.test:9001"); err != nil || !strings.Contains(out, who) {
				return fmt.Errorf("%s by TCP: %q, want %s, %w", name, out, who, err)
			}
		}
		return nil
	}
	// A Service, one that only the cluster's own DNS knows, and one that does not exist.
	ordinary := func(ctx context.Context, pod string) error {
		for _, name := range []string{"server." + n.Name + ".svc.cluster.local.", "peers." + n.Name + ".svc.cluster.local."} {
			if out, err := n.Exec(ctx, pod, "app", "/bin/nslookup", name); err != nil {
				return fmt.Errorf("%s: %q, %w", name, out, err)
			}
		}
		if out, err := n.Exec(ctx, pod, "app", "/bin/nslookup", "nobody.example.com."); err == nil {
			return fmt.Errorf("a name that nobody has: %s", out)
		}
		return nil
	}
	for _, app := range []string{"istios", "ours"} {
		pod := n.ReadyPod(t, "app="+app).Name
		kubetest.Wait(t, kubetest.Patience, "the partners, asked by "+app, func(ctx context.Context) error { return partner(ctx, pod) })
		if err := everyProtocol(t.Context(), n, pod); err != nil {
			t.Errorf("%s: %v", app, err)
		}
		if err := ordinary(t.Context(), pod); err != nil {
			t.Errorf("%s: %v", app, err)
		}
	}
	if out, err := n.Call(t.Context(), other, "http://one.partner.test/"); err == nil {
		t.Errorf("a pod whose DNS is its own found it, too: %s", out)
	}

	ours := n.ReadyPod(t, "app=ours").Name
	t.Run("seined away", func(t *testing.T) {
		system := c.In(t, kubetest.System)
		scale(t, system, "seined", 0)
		defer scale(t, system, "seined", 1)
		if err := partner(t.Context(), ours); err != nil {
			t.Error(err)
		}
		if err := ordinary(t.Context(), ours); err != nil {
			t.Error(err)
		}
	})

	t.Run("UDP and ICMP", func(t *testing.T) {
		for _, pod := range []string{ours, other} {
			for _, ip := range n.ReadyPod(t, "app=server").Status.PodIPs {
				at := netip.AddrPortFrom(netip.MustParseAddr(ip.IP), 9003).String()
				if out, err := n.Call(t.Context(), pod, "-protocol", "udp", at); err != nil || !strings.Contains(out, "ok") {
					t.Errorf("%s to %s by UDP: %q, %v", pod, at, out, err)
				}
				if out, err := n.Exec(t.Context(), pod, "app", "/bin/busybox", "ping", "-c", "1", "-W", "10", ip.IP); err != nil {
					t.Errorf("%s: ping %s: %q, %v", pod, ip.IP, out, err)
				}
			}
		}
	})
}
