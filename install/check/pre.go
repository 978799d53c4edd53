package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/seinemesh/seine/install"
)

// Pre asks whether the cluster can take an installation.
func (c *Checker) Pre(ctx context.Context) {
	began, _ := c.Machine(c.Now()) // what it does not tell is absent
	c.run(ctx, "cluster", c.kubernetes)
	c.run(ctx, "permissions", c.permissions, c.escalation)
	c.run(ctx, "definitions", c.definitionsBefore)
	c.run(ctx, "nodes", c.nodes)
	c.run(ctx, "network", c.network)
	c.run(ctx, "namespaces", c.podSecurity, c.otherMeshes)
	c.run(ctx, "metrics", c.monitors)
	c.run(ctx, "machines", func(ctx context.Context) { c.stealBefore(ctx, began) })
}

// Versions of Kubernetes: the oldest that serves what is installed (the CEL rules
// in Gateway API's definitions), and the one that has native sidecars by default.
var (
	oldest  = version.MustParseGeneric("1.28")
	sidecar = version.MustParseGeneric("1.29")
)

func (c *Checker) kubernetes(context.Context) {
	info, err := c.Cluster.Kube.Discovery().ServerVersion()
	if err != nil {
		c.line(Failed, "API server", err.Error(), "is the cluster up, and the kubeconfig the right one (kubectl version)?")
		return
	}
	c.line(judgeVersion(info.GitVersion))
}

func judgeVersion(v string) (Status, string, string, string) {
	const name = "Kubernetes version"
	parsed, err := version.ParseGeneric(v)
	switch {
	case err != nil:
		return Unknown, name, fmt.Sprintf("%q is no version", v), "Seine needs 1.28 or newer"
	case parsed.LessThan(oldest):
		return Failed, name, v + " is older than 1.28", "upgrade the cluster: its API server cannot take the definitions"
	case parsed.LessThan(sidecar):
		return Warning, name, v + " has no native sidecars", "sidecars become ordinary containers, and a Job must end its own (POST http://127.0.0.1:15020/quitquitquit); Kubernetes 1.29 mends it"
	}
	return OK, name, v, ""
}

// needs is what an installation does; every object of the chart is of one of
// these.
var needs = []struct{ group, resource, namespace string }{
	{"", "namespaces", ""},
	{"apiextensions.k8s.io", "customresourcedefinitions", ""},
	{"rbac.authorization.k8s.io", "clusterroles", ""},
	{"rbac.authorization.k8s.io", "clusterrolebindings", ""},
	{"admissionregistration.k8s.io", "mutatingwebhookconfigurations", ""},
	{"admissionregistration.k8s.io", "validatingwebhookconfigurations", ""},
	{"", "serviceaccounts", "own"},
	{"rbac.authorization.k8s.io", "roles", "own"},
	{"rbac.authorization.k8s.io", "rolebindings", "own"},
	{"", "configmaps", "own"},
	{"", "secrets", "own"},
	{"", "services", "own"},
	{"policy", "poddisruptionbudgets", "own"},
	{"apps", "deployments", "own"},
}

func (c *Checker) permissions(ctx context.Context) {
	var lacking []string
	for _, n := range needs {
		var verbs []string
		for _, verb := range []string{"get", "list", "create", "patch", "delete"} {
			attributes := &authorizationv1.ResourceAttributes{Group: n.group, Resource: n.resource, Verb: verb}
			if n.namespace != "" {
				attributes.Namespace = c.Namespace
			}
			review, err := c.Cluster.Kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
				&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}, metav1.CreateOptions{})
			if c.asked("your permissions", err) {
				return
			}
			if !review.Status.Allowed {
				verbs = append(verbs, verb)
			}
		}
		if len(verbs) > 0 {
			lacking = append(lacking, strings.Join(verbs, ",")+" "+strings.TrimSuffix(n.resource+"."+n.group, "."))
		}
	}
	if len(lacking) > 0 {
		c.line(Failed, "your permissions", "you may not "+strings.Join(lacking, "; "), "install as a cluster administrator, or have one grant these: kubectl create clusterrolebinding … --clusterrole=cluster-admin")
		return
	}
	c.line(OK, "your permissions", fmt.Sprintf("all that an installation does with %d kinds", len(needs)), "")
}

// escalation tries seined's own roles as a dry run: nobody may grant what he does
// not have.
func (c *Checker) escalation(ctx context.Context) {
	const name = "roles of seined"
	objects, err := install.Render(ctx, install.Options{Namespace: c.Namespace, Values: c.Values, Version: c.Version})
	if err != nil {
		c.line(Failed, "values", err.Error(), "correct them")
		return
	}
	for _, u := range objects {
		if u.GetKind() != "ClusterRole" {
			continue
		}
		if err := c.Cluster.Try(ctx, u); apierrors.IsForbidden(err) {
			c.line(Failed, name, err.Error(), "you can only grant what you may do yourself: install as a cluster administrator")
			return
		} else if c.asked(name, err) {
			return
		}
	}
	c.line(OK, name, "you may grant them", "")
}

func (c *Checker) definitionsBefore(ctx context.Context) {
	all, err := c.Cluster.CRDs(ctx)
	if c.asked("custom resource definitions", err) {
		return
	}
	absent, own := 0, 0
	owners := map[string]int{}
	for _, d := range all {
		switch d.Owner {
		case "":
			absent++
		case install.PartOf:
			own++
		default:
			owners[d.Owner]++
		}
		if d.Owner != "" && d.Owner != install.PartOf && len(d.Missing) > 0 {
			c.line(Warning, d.Object.GetName(), fmt.Sprintf("belongs to %s and does not serve %s", d.Owner, strings.Join(d.Missing, ", ")), "it is left alone; resources of these versions cannot be applied until its owner upgrades it")
		}
	}
	detail := fmt.Sprintf("%d to be installed, %d there already", absent, own)
	for _, o := range sorted(owners) {
		detail += fmt.Sprintf(", %d of %s left alone", owners[o], o)
	}
	c.line(OK, "custom resource definitions", detail, "")
}

func (c *Checker) nodes(ctx context.Context) {
	nodes, err := c.Cluster.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if c.asked("nodes", err) {
		return
	}
	if len(nodes.Items) == 0 {
		c.line(Failed, "nodes", "there are none", "add a node")
		return
	}
	for i := range nodes.Items {
		c.line(judgeNode(&nodes.Items[i]))
	}
	pods, err := c.Cluster.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"})
	if c.asked("room for the control plane", err) {
		return
	}
	c.line(judgeRoom(nodes.Items, pods.Items))
}

// kernel is the oldest whose nf_tables can redirect in the inet family.
var kernel = version.MustParseGeneric("5.2")

func judgeNode(n *corev1.Node) (Status, string, string, string) {
	name, i := "node "+n.Name, n.Status.NodeInfo
	detail := fmt.Sprintf("%s, kernel %s, %s", i.Architecture, i.KernelVersion, i.ContainerRuntimeVersion)
	if i.OperatingSystem != "" && i.OperatingSystem != "linux" {
		return Warning, name, i.OperatingSystem + ": the sidecar is for Linux", "pods there stay outside the mesh"
	}
	for _, cond := range n.Status.Conditions {
		switch {
		case cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue:
			return Warning, name, "not ready: " + cond.Message, "kubectl describe node " + n.Name
		case cond.Type != corev1.NodeReady && cond.Status == corev1.ConditionTrue:
			return Warning, name, fmt.Sprintf("%s: %s", cond.Type, cond.Message), "kubectl describe node " + n.Name
		}
	}
	if a := i.Architecture; a != "amd64" && a != "arm64" {
		return Failed, name, "architecture " + a, "images are built for amd64 and arm64"
	}
	v, err := version.ParseGeneric(kernelVersion(i.KernelVersion))
	if err != nil {
		return Unknown, name, detail, "the redirect needs nf_tables of kernel 5.2 or newer"
	}
	if v.LessThan(kernel) {
		return Failed, name, detail + ": its nf_tables cannot redirect in the inet family", "run a kernel of 5.2 or newer"
	}
	return OK, name, detail, ""
}

// kernelVersion is the leading MAJOR.MINOR of what uname says.
func kernelVersion(s string) string {
	parts := strings.SplitN(s, ".", 3)
	if len(parts) < 2 {
		return s
	}
	minor := strings.TrimRightFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	return parts[0] + "." + minor
}

// What seined asks for, as the chart's values have it.
var (
	cpu    = resource.MustParse("100m")
	memory = resource.MustParse("64Mi")
)

// judgeRoom says whether some node has what seined asks for left.
func judgeRoom(nodes []corev1.Node, pods []corev1.Pod) (Status, string, string, string) {
	const name = "room for the control plane"
	most := resource.Quantity{}
	for _, n := range nodes {
		if n.Spec.Unschedulable || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule }) {
			continue
		}
		freeCPU, freeMemory := n.Status.Allocatable.Cpu().DeepCopy(), n.Status.Allocatable.Memory().DeepCopy()
		for _, p := range pods {
			if p.Spec.NodeName != n.Name {
				continue
			}
			for _, container := range p.Spec.Containers {
				freeCPU.Sub(*container.Resources.Requests.Cpu())
				freeMemory.Sub(*container.Resources.Requests.Memory())
			}
		}
		if freeCPU.Cmp(cpu) >= 0 && freeMemory.Cmp(memory) >= 0 {
			return OK, name, fmt.Sprintf("node %s has %s CPU and %d MiB unrequested", n.Name, freeCPU.String(), freeMemory.Value()>>20), ""
		}
		if freeCPU.Cmp(most) > 0 {
			most = freeCPU
		}
	}
	return Failed, name, fmt.Sprintf("no untainted node has %s CPU and %s left (at most %s CPU)", cpu.String(), memory.String(), most.String()), "add a node, lower other requests, or tolerate a taint (--set tolerations…)"
}

// cni are network plugins by the DaemonSet that runs them.
var cni = map[string]string{
	"cilium": "Cilium", "anetd": "GKE Dataplane V2 (Cilium)", "calico-node": "Calico", "kube-flannel-ds": "Flannel", "aws-node": "AWS VPC CNI",
	"kindnet": "kindnet", "weave-net": "Weave", "azure-cni": "Azure CNI", "ovnkube-node": "OVN-Kubernetes", "canal": "Canal", "antrea-agent": "Antrea",
}

func (c *Checker) network(ctx context.Context) {
	list, err := c.Cluster.Kube.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if c.asked("network plugin", err) {
		return
	}
	found := false
	for _, d := range list.Items {
		plugin, ok := cni[d.Name]
		if !ok {
			continue
		}
		found = true
		if d.Name != "cilium" {
			c.line(OK, "network plugin", plugin, "")
			continue
		}
		m, err := c.Cluster.Kube.CoreV1().ConfigMaps(d.Namespace).Get(ctx, "cilium-config", metav1.GetOptions{})
		if c.asked("network plugin", err) {
			return
		}
		c.line(judgeCilium(m.Data))
	}
	if !found {
		c.line(OK, "network plugin", "none that is known to need a setting", "")
	}
}

// judgeCilium reads cilium-config: its socket load balancer rewrites what a pod
// dials before the redirect sees it (Cilium's documentation on Istio), and an
// exclusive plugin removes a chained one.
func judgeCilium(data map[string]string) (Status, string, string, string) {
	const name = "network plugin"
	socket := data["bpf-lb-sock"] == "true" || data["kube-proxy-replacement"] == "true" || data["kube-proxy-replacement"] == "strict"
	if socket && data["bpf-lb-sock-hostns-only"] != "true" {
		return Failed, name, "Cilium's socket load balancer rewrites Service addresses before the sidecar sees them: routes by Service would not hold",
			"set socketLB.hostNamespaceOnly=true in Cilium's values and restart its agents"
	}
	if data["cni-exclusive"] == "true" {
		return Warning, name, "Cilium is exclusive: it takes other plugins out of the node's chain", "leave cni.enabled=false, or set cni.exclusive=false in Cilium's values"
	}
	return OK, name, "Cilium, with settings that leave the redirect alone", ""
}

func (c *Checker) podSecurity(ctx context.Context) {
	list, err := c.Cluster.Kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if c.asked("Pod Security", err) {
		return
	}
	var strict []string
	for i := range list.Items {
		ns := &list.Items[i]
		if level := ns.Labels["pod-security.kubernetes.io/enforce"]; (level == "baseline" || level == "restricted") && asks(ns.Labels) {
			strict = append(strict, ns.Name+" ("+level+")")
		}
	}
	if len(strict) > 0 && !c.plugin() {
		c.line(Failed, "Pod Security", "refuses NET_ADMIN, which the init container needs, in "+strings.Join(strict, ", "), "install with --set cni.enabled=true: then no pod needs it")
		return
	}
	c.line(OK, "Pod Security", "no namespace that asks for sidecars refuses them", "")
}

// asks reports whether a namespace's labels ask for sidecars.
func asks(labels map[string]string) bool {
	v := labels["seine.dev/inject"]
	return v == "enabled" || v == "true" || v == "" && (labels["istio-injection"] == "enabled" || labels["seine.dev/revision"] != "" || labels["istio.io/rev"] != "")
}

// plugin reports whether the values want the CNI plugin.
func (c *Checker) plugin() bool {
	m, _ := c.Values["cni"].(map[string]any)
	return m["enabled"] == true
}

func (c *Checker) otherMeshes(ctx context.Context) {
	list, err := c.Cluster.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if c.asked("other meshes", err) {
		return
	}
	var others []string
	for _, w := range list.Items {
		if strings.Contains(w.Name, "istio-sidecar-injector") || strings.Contains(w.Name, "linkerd-proxy-injector") || strings.Contains(w.Name, "consul-connect-injector") {
			others = append(others, w.Name)
		}
	}
	if len(others) > 0 {
		c.line(Warning, "other meshes", strings.Join(others, ", ")+" injects, too", "where it is Istio, install with --set injection.istioLabels=false, and label namespaces seine.dev/inject=enabled alone")
		return
	}
	c.line(OK, "other meshes", "none injects sidecars", "")
}

func sorted(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(m[b]-m[a], strings.Compare(a, b)) })
	return keys
}
