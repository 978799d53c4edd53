package check

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/diagnose"
	"github.com/seinemesh/seine/host"
)

// Shares of CPU time that a hypervisor takes from a machine: sidecars on it lag from
// the first on, and what calls them waits with them from the second on.
const (
	stealWarns = 0.01
	stealFails = 0.02
)

const (
	nameSteal = "CPU steal"
	mendSteal = "the hypervisor gives this CPU time to other machines: take a machine that is not burstable or overcommitted (a larger or dedicated one, or another host), or drain it (kubectl drain); `seine diagnose` says which requests it makes slow"
)

// stolen is how much of a machine's CPU time its hypervisor took, 0..1.
type stolen struct {
	machine string
	share   float64
}

// judgeSteal speaks of the machines whose steal is known, over a span of time;
// unseen counts the others.
func judgeSteal(list []stolen, unseen int, over string) (Status, string, string, string) {
	slices.SortFunc(list, func(a, b stolen) int { return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.machine, b.machine)) })
	rest := ""
	if unseen > 0 {
		rest = fmt.Sprintf("; of %s it is not known", plural(unseen, "machine"))
	}
	if len(list) == 0 {
		return Unknown, nameSteal, "no machine tells it" + rest, "a sidecar on each machine does, once there are any: ask again"
	}
	var high []string
	for _, s := range list {
		if s.share > stealWarns {
			high = append(high, fmt.Sprintf("%.1f %% on %s", s.share*100, s.machine))
		}
	}
	switch worst := list[0].share; {
	case worst > stealFails:
		return Failed, nameSteal, few(high) + " in " + over + rest, mendSteal
	case worst > stealWarns:
		return Warning, nameSteal, few(high) + " in " + over + rest, mendSteal
	default:
		return OK, nameSteal, fmt.Sprintf("at most %.1f %% on %s in %s%s", worst*100, plural(len(list), "machine"), over, rest), ""
	}
}

// machines asks a replica what the proxies say of the machines that they run on.
func (c *Checker) machines(ctx context.Context, replicas []string) {
	if len(replicas) == 0 {
		c.line(Unknown, nameSteal, "no seined to ask", "see the control plane above")
		return
	}
	var seen struct {
		Machines []struct {
			ID      string                 `json:"id"`
			Node    string                 `json:"node"`
			Signals []diagnose.SignalState `json:"signals"`
		} `json:"machines"`
	}
	if err := c.ask(ctx, replicas[0], "/api/v1/infrastructure", &seen); err != nil {
		c.line(Unknown, nameSteal, err.Error(), "may you create pods/portforward in "+c.Namespace+"?")
		return
	}
	if len(seen.Machines) == 0 { // an installation that is minutes old is not unwell
		c.line(OK, nameSteal, "no sidecar has told of its machine yet", "")
		return
	}
	var list []stolen
	unseen := 0
	for _, m := range seen.Machines {
		i := slices.IndexFunc(m.Signals, func(s diagnose.SignalState) bool { return s.Name == diagnose.Steal.String() })
		if i < 0 {
			unseen++
			continue
		}
		list = append(list, stolen{cmp.Or(m.Node, m.ID), m.Signals[i].Minute})
	}
	c.line(judgeSteal(list, unseen, "the last minute"))
}

// While no proxy runs, two ways lead to a node's counters: it may be the very
// machine that this program runs on (kind, minikube, k3s), and the cluster may run
// Prometheus' node exporter.
const (
	stealSpan    = 3 * time.Second // between two readings
	maxExporters = 20              // that are asked
	exporterPort = "9100"
)

// stealBefore judges the nodes of a cluster without proxies; began is what this
// machine said when the check did.
func (c *Checker) stealBefore(ctx context.Context, began host.Reading) {
	nodes, err := c.Cluster.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if c.asked(nameSteal, err) {
		return
	}
	before := c.exporters(ctx)
	wait := time.NewTimer(stealSpan - c.Now().Sub(began.At))
	defer wait.Stop()
	if len(before) > 0 {
		wait.Reset(stealSpan)
	}
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	now, _ := c.Machine(c.Now()) // what it does not tell is absent
	after := c.exporters(ctx)
	var list []stolen
	unseen := 0
	for _, n := range nodes.Items {
		if n.Status.NodeInfo.BootID == now.Boot && now.Boot != "" && began.CPU != nil && now.CPU != nil {
			if total := now.CPU.Total() - began.CPU.Total(); total > 0 {
				list = append(list, stolen{n.Name, float64(now.CPU.Steal-began.CPU.Steal) / float64(total)})
				continue
			}
		}
		a, b := before[n.Name], after[n.Name]
		if total := b.total - a.total; a.total > 0 && total > 0 {
			list = append(list, stolen{n.Name, (b.steal - a.steal) / total})
			continue
		}
		unseen++
	}
	if len(list) == 0 {
		c.line(Unknown, nameSteal, "the API server does not tell it, and no node exporter runs", "after the installation `seine check` reads it on the machines themselves; above 2 % latency suffers")
		return
	}
	c.line(judgeSteal(list, unseen, stealSpan.String()))
}

// cpuTime is CPU time since boot, in seconds, of all of a machine's CPUs.
type cpuTime struct{ total, steal float64 }

// exporters reads the node exporters of the cluster, through the API server, by
// node. One that does not answer is left out.
func (c *Checker) exporters(ctx context.Context) map[string]cpuTime {
	out := map[string]cpuTime{}
	for _, name := range [...]string{"node-exporter", "prometheus-node-exporter"} {
		pods, err := c.Cluster.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=" + name, FieldSelector: "status.phase=Running", Limit: maxExporters})
		if err != nil {
			continue
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			if _, known := out[p.Spec.NodeName]; known || p.Status.Phase != corev1.PodRunning {
				continue
			}
			body, err := c.Cluster.Kube.CoreV1().Pods(p.Namespace).ProxyGet("http", p.Name, exporterPort, "metrics", nil).DoRaw(ctx)
			if err == nil {
				out[p.Spec.NodeName] = exported(body)
			}
		}
	}
	return out
}

// exported sums a node exporter's node_cpu_seconds_total.
func exported(body []byte) (t cpuTime) {
	for line := range bytes.Lines(body) {
		labels, ok := strings.CutPrefix(string(line), "node_cpu_seconds_total{")
		if !ok {
			continue
		}
		labels, value, ok := strings.Cut(labels, "} ")
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || err != nil || !(v >= 0) {
			continue
		}
		t.total += v
		if strings.Contains(labels, `mode="steal"`) {
			t.steal += v
		}
	}
	return t
}
