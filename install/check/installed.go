package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/inject"
	"github.com/seinemesh/seine/install"
	"github.com/seinemesh/seine/install/deploy"
	"github.com/seinemesh/seine/install/ready"
)

// Installed asks whether an installation is healthy.
func (c *Checker) Installed(ctx context.Context) {
	var pods []string // ready replicas
	c.run(ctx, "cluster", c.kubernetes)
	c.run(ctx, "definitions", c.definitions)
	c.run(ctx, "control plane", c.release, func(ctx context.Context) { pods = c.controlPlane(ctx) })
	c.run(ctx, "webhooks", func(ctx context.Context) { c.webhooks(ctx, pods) }, c.call)
	c.run(ctx, "certificates", func(ctx context.Context) { c.certificates(ctx, pods) })
	c.run(ctx, "data plane", func(ctx context.Context) { c.dataPlane(ctx, pods) }, c.podSecurity)
	c.run(ctx, "metrics", c.monitors)
	c.run(ctx, "machines", func(ctx context.Context) { c.machines(ctx, pods) })
}

func (c *Checker) name(base string) string { return install.Name(base, c.Revision) }

func (c *Checker) definitions(ctx context.Context) {
	all, err := c.Cluster.CRDs(ctx)
	if c.asked("custom resource definitions", err) {
		return
	}
	var absent, waiting []string
	others := map[string]int{}
	for _, d := range all {
		switch n := d.Object.GetName(); {
		case d.Owner == "":
			absent = append(absent, n)
		case !d.Established:
			waiting = append(waiting, n)
		case d.Owner != install.PartOf:
			others[d.Owner]++
			if len(d.Missing) > 0 {
				c.line(Warning, n, fmt.Sprintf("belongs to %s and does not serve %s", d.Owner, strings.Join(d.Missing, ", ")), "have its owner upgrade it")
			}
		}
	}
	switch {
	case len(absent) > 0:
		c.line(Failed, "custom resource definitions", plural(len(absent), "definition")+" missing: "+few(absent), "seine install adds what is missing")
	case len(waiting) > 0:
		c.line(Failed, "custom resource definitions", "not established: "+few(waiting), "kubectl describe crd "+waiting[0]+" names the conflict")
	default:
		detail := fmt.Sprintf("%d established", len(all))
		for _, o := range sorted(others) {
			detail += fmt.Sprintf(", %d of them of %s", others[o], o)
		}
		c.line(OK, "custom resource definitions", detail, "")
	}
}

// release says whether the last installation ended, and of what version it is.
func (c *Checker) release(ctx context.Context) {
	h, err := c.Cluster.History(ctx, c.Namespace, c.Revision)
	if c.asked("release", err) {
		return
	}
	if len(h) == 0 {
		d, err := c.Cluster.Kube.AppsV1().Deployments(c.Namespace).Get(ctx, c.name("seined"), metav1.GetOptions{})
		if err == nil && d.Labels[install.LabelManagedBy] == "Helm" {
			c.line(OK, "release", fmt.Sprintf("Helm release %s in %s", d.Annotations["meta.helm.sh/release-name"], d.Annotations["meta.helm.sh/release-namespace"]), "")
			return
		}
		c.line(Unknown, "release", "no history: not installed by `seine install`", "if helm or kubectl did, upgrade with that")
		return
	}
	r := h[len(h)-1]
	c.Values = r.Values // what is installed, for the questions that follow
	switch {
	case r.Status != deploy.Deployed:
		c.line(Failed, "release", fmt.Sprintf("release %d, begun %s, is half done", r.Number, r.Time.Format(time.DateTime)), "run seine install again, or seine upgrade --rollback")
	case r.Version != c.Version:
		c.line(Warning, "release", fmt.Sprintf("version %s, and this program is %s", r.Version, c.Version), "seine upgrade, or use the program of that version")
	default:
		c.line(OK, "release", fmt.Sprintf("%d, version %s, %s", r.Number, r.Version, r.Time.Format(time.DateTime)), "")
	}
}

// controlPlane looks at seined and returns its ready pods.
func (c *Checker) controlPlane(ctx context.Context) []string {
	name := c.name("seined")
	s, err := ready.Deployment(ctx, c.Cluster.Kube, c.Namespace, name)
	if c.asked(name, err) {
		return nil
	}
	switch {
	case !s.Exists:
		c.line(Failed, name, "there is no Deployment "+name+" in namespace "+c.Namespace, "seine install; or say where it is with -n and --revision")
		return nil
	case !s.Ready && len(s.Reasons) > 0:
		r := s.Reasons[0]
		c.line(Failed, name, fmt.Sprintf("%d of %d ready; %s: %s", s.Have, s.Want, r.Object, r.Detail), r.Mend)
	case !s.Ready:
		c.line(Failed, name, fmt.Sprintf("%d of %d ready", s.Have, s.Want), "kubectl describe deployment -n "+c.Namespace+" "+name)
	default:
		c.line(OK, name, fmt.Sprintf("%d of %d ready", s.Have, s.Want), "")
	}
	list, err := c.Cluster.Kube.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=seined," + install.LabelRevision + "=" + c.Revision})
	if c.asked("pods of "+name, err) {
		return nil
	}
	var up []string
	for i := range list.Items {
		p := &list.Items[i]
		if _, notReady := ready.Pod(p); !notReady && p.DeletionTimestamp == nil {
			up = append(up, p.Name)
		}
		for _, s := range p.Status.ContainerStatuses {
			if t := s.LastTerminationState.Terminated; t != nil && c.Now().Sub(t.FinishedAt.Time) < time.Hour {
				c.line(Warning, "pod "+p.Name, fmt.Sprintf("restarted %d times, last with exit status %d (%s)", s.RestartCount, t.ExitCode, t.Reason), "kubectl logs -n "+c.Namespace+" "+p.Name+" --previous")
			}
		}
	}
	return up
}

// webhooks looks at both configurations: is there one, has seined written its
// caBundle, is somebody there to be called.
func (c *Checker) webhooks(ctx context.Context, pods []string) {
	api := c.Cluster.Kube.AdmissionregistrationV1()
	if m, err := api.MutatingWebhookConfigurations().Get(ctx, c.name("seine-injector"), metav1.GetOptions{}); apierrors.IsNotFound(err) {
		c.line(Failed, c.name("seine-injector"), "is missing: no pod gets a sidecar", "seine install adds it")
	} else if !c.asked(c.name("seine-injector"), err) {
		var clients []admissionregistrationv1.WebhookClientConfig
		for _, w := range m.Webhooks {
			clients = append(clients, w.ClientConfig)
		}
		c.webhook(ctx, m.Name, clients, pods)
	}
	if v, err := api.ValidatingWebhookConfigurations().Get(ctx, c.name("seine-validator"), metav1.GetOptions{}); apierrors.IsNotFound(err) {
		c.line(Warning, c.name("seine-validator"), "is missing: invalid resources are accepted", "set validation.enabled=true, if that is not meant")
	} else if !c.asked(c.name("seine-validator"), err) {
		var clients []admissionregistrationv1.WebhookClientConfig
		for _, w := range v.Webhooks {
			clients = append(clients, w.ClientConfig)
		}
		c.webhook(ctx, v.Name, clients, pods)
	}
}

func (c *Checker) webhook(ctx context.Context, name string, clients []admissionregistrationv1.WebhookClientConfig, pods []string) {
	var bundle []byte
	for _, w := range clients {
		if len(w.CABundle) == 0 {
			c.line(Failed, name, "has no caBundle: the API server cannot trust seined", "seined writes it when it is ready: kubectl logs -n "+c.Namespace+" deployment/"+c.name("seined"))
			return
		}
		bundle = w.CABundle
	}
	n, err := ready.Endpoints(ctx, c.Cluster.Kube, c.Namespace, c.name("seined"))
	if c.asked(name, err) {
		return
	}
	if n == 0 {
		c.line(Failed, name, "Service "+c.name("seined")+" has no ready endpoint: calls to the webhook fail", "see the control plane above")
		return
	}
	if len(pods) == 0 {
		c.line(Unknown, name, "no ready pod to compare the caBundle with", "see the control plane above")
		return
	}
	leaf, err := c.served(ctx, pods[0], portWebhook, bundle)
	if err != nil {
		status, detail, mend := judgeHandshake(err)
		c.line(status, name, "port 15017: "+detail, mend)
		return
	}
	c.line(OK, name, "its caBundle verifies seined's certificate, which ends "+leaf.NotAfter.Format(time.DateTime), "")
}

// call has the API server call the injector, by a pod that is only tried: the
// one way to see what stands between them.
func (c *Checker) call(ctx context.Context) {
	const name = "API server → injector"
	labels := map[string]string{inject.LabelInject: "enabled"}
	if c.Revision != install.DefaultRevision {
		labels[inject.LabelRevision] = c.Revision
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "seine-check-", Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "check", Image: "check"}}},
	}
	out, err := c.Cluster.Kube.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		c.line(judgeCall(name, err))
		return
	}
	if out.Annotations[inject.AnnotationStatus] == "" {
		c.line(Warning, name, "a pod in namespace default that asks for a sidecar got none", "is namespace default labelled against it, or the failure policy Ignore and seined away (kubectl get events)?")
		return
	}
	c.line(OK, name, "a pod that asks for a sidecar gets one (tried, not created)", "")
}

// judgeCall says what an error of a pod's creation tells of the way to the
// webhook. The sentences are the API server's (apiserver/pkg/admission/plugin/webhook).
func judgeCall(name string, err error) (Status, string, string, string) {
	m := err.Error()
	switch {
	case !strings.Contains(m, "failed calling webhook"):
		return Unknown, name, "a pod cannot be tried in namespace default: " + m, "may you create pods there?"
	case strings.Contains(m, "x509") || strings.Contains(m, "certificate"):
		return Failed, name, m, "the caBundle is not that of seined's certificate: restart seined (kubectl rollout restart), which writes it anew"
	case strings.Contains(m, "no endpoints available"), strings.Contains(m, "connection refused"):
		return Failed, name, m, "no seined answers: see the control plane above"
	case strings.Contains(m, "deadline exceeded"), strings.Contains(m, "Timeout"), strings.Contains(m, "timed out"), strings.Contains(m, "no route to host"):
		return Failed, name, m, "a firewall or NetworkPolicy keeps the API server from port 15017 of seined's pods: open it from the control plane's network to the nodes (private GKE and EKS clusters: a firewall or security-group rule for TCP 15017)"
	}
	return Failed, name, m, "kubectl logs -n seine-system deployment/seined"
}

// dataPlane looks at pods: those that lack a sidecar, those whose sidecar is not
// well, and what the proxies have acknowledged.
func (c *Checker) dataPlane(ctx context.Context, replicas []string) {
	kube := c.Cluster.Kube
	namespaces, err := kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if c.asked("pods", err) {
		return
	}
	byName := map[string]inject.Namespace{}
	for _, ns := range namespaces.Items {
		byName[ns.Name] = inject.Namespace{Name: ns.Name, Labels: ns.Labels}
	}
	values := inject.Defaults("any")
	values.Revision, values.RootNamespace = c.Revision, c.Namespace
	var bare, sick, running []string
	mend := "kubectl describe pod and kubectl logs -c seine-proxy say more"
	o := metav1.ListOptions{Limit: 500}
	for {
		pods, err := kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
		if c.asked("pods", err) {
			return
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil {
				continue
			}
			if p.Annotations[inject.AnnotationStatus] == "" {
				if r, err := inject.Pod(p, byName[p.Namespace], &values); err == nil && r.Skip == nil {
					bare = append(bare, p.Namespace+"/"+p.Name)
				}
				continue
			}
			if why, not := ready.Why(ctx, kube, p); not {
				if sick = append(sick, p.Namespace+"/"+p.Name+": "+why.Detail); why.Cause == "sidecar" {
					mend = why.Mend
				}
				continue
			}
			running = append(running, p.Namespace+"/"+p.Name)
		}
		if o.Continue = pods.Continue; o.Continue == "" {
			break
		}
	}
	if len(bare) > 0 {
		c.line(Failed, "pods without a sidecar", fmt.Sprintf("%s should have one and have not: %s", plural(len(bare), "pod"), few(bare)), "they are older than the label or the webhook: kubectl rollout restart -n "+strings.Split(bare[0], "/")[0]+" deployment")
	} else {
		c.line(OK, "pods without a sidecar", "none of those that should have one", "")
	}
	if len(sick) > 0 {
		c.line(Failed, "pods that are not ready", fmt.Sprintf("%s: %s", plural(len(sick), "pod"), few(sick)), mend)
	}
	c.proxies(ctx, replicas, running)
}

// few joins the first three of s and says how many more there are.
func few(s []string) string {
	if len(s) <= 3 {
		return strings.Join(s, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(s[:3], ", "), len(s)-3)
}

// proxies compares the pods that run a ready sidecar with what the replicas say
// of their streams.
func (c *Checker) proxies(ctx context.Context, replicas, running []string) {
	const name = "proxies in step"
	if len(replicas) == 0 {
		c.line(Unknown, name, "no seined to ask", "see the control plane above")
		return
	}
	var all []proxy
	for _, pod := range replicas {
		some, err := c.connected(ctx, pod)
		if err != nil {
			c.line(Unknown, name, err.Error(), "may you create pods/portforward in "+c.Namespace+"?")
			return
		}
		all = append(all, some...)
	}
	c.line(judgeProxies(all, running, c.Version))
}

// proxy is what the API tells of one.
type proxy struct {
	ID       string `json:"id"`
	Version  string `json:"version"`
	Current  bool   `json:"current"`
	Rejected []struct {
		Name    string `json:"name"`
		Message string `json:"message"`
		Source  string `json:"source"`
	} `json:"rejected"`
}

func judgeProxies(all []proxy, running []string, version string) (Status, string, string, string) {
	const name = "proxies in step"
	var behind, other, lost []string
	known := map[string]bool{}
	for _, p := range all {
		known[p.ID] = true
		if len(p.Rejected) > 0 {
			r := p.Rejected[0]
			return Failed, name, fmt.Sprintf("%s refused %s (%s): %s", p.ID, r.Name, r.Source, r.Message), "this is a bug of ours: it keeps what it had; please report it with seine version and that resource"
		}
		if !p.Current {
			behind = append(behind, p.ID)
		}
		if p.Version != "" && p.Version != version {
			other = append(other, p.ID+" ("+p.Version+")")
		}
	}
	for _, r := range running {
		if !known[r] {
			lost = append(lost, r)
		}
	}
	slices.Sort(behind)
	switch {
	case len(lost) > 0:
		return Failed, name, fmt.Sprintf("%s not connected to the control plane: %s", plural(len(lost), "proxy"), few(lost)), "they go on with what they know; kubectl logs -c seine-proxy says why: a NetworkPolicy against port 15012?"
	case len(behind) > 0:
		return Warning, name, fmt.Sprintf("%d of %d have not acknowledged the newest configuration: %s", len(behind), len(all), few(behind)), "normal for a second after a change; otherwise kubectl logs -c seine-proxy"
	case len(other) > 0:
		return Warning, name, "other versions: " + few(other), "restart these workloads to give them this version's sidecar"
	}
	return OK, name, fmt.Sprintf("%d connected, all with the newest configuration", len(all)), ""
}

// errNoRoots is where nothing says which roots the mesh trusts.
var errNoRoots = errors.New("no ConfigMap seine-ca-root in any namespace: seined writes it where injection is on")
