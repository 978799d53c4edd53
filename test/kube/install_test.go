//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/seinemesh/seine/install"
	"github.com/seinemesh/seine/test/kube/kubetest"
)

// TestInstallation is an installation from nothing to nothing: can the cluster
// take it, why is it not ready, once more, an upgrade, a bad upgrade, back, and
// away, with nothing left and nothing touched that is somebody else's.
func TestInstallation(t *testing.T) {
	c := kubetest.Connect(t)
	c.Uninstall(t)
	route := foreignDefinition(t, c)
	stays := c.Namespace(t, "stays", map[string]string{"seine.dev/inject": "enabled"})
	before := c.Everything(t)

	if l := checked(t, c, "--pre")["custom resource definitions"]; !strings.Contains(l.Detail, "1 of Istio left alone") {
		t.Errorf("check --pre: %+v", l)
	}
	waitsSayWhy(t, c)
	first := c.Install(t)
	t.Logf("ready in %s", first.Round(100*time.Millisecond))
	lines := checked(t, c)
	if l := lines["custom resource definitions"]; !strings.Contains(l.Detail, "1 of them of Istio") {
		t.Errorf("definitions: %+v", l)
	}
	if l := lines["virtualservices.networking.istio.io"]; l.Status != "warning" || !strings.Contains(l.Detail, "belongs to Istio and does not serve v1") {
		t.Errorf("a definition of others that lacks a version: %+v", l)
	}

	made := versions(t, c)
	t.Logf("and once more in %s", c.Install(t).Round(100*time.Millisecond))
	for name, now := range versions(t, c) {
		if was := made[name]; was != now {
			t.Errorf("a second installation of the same changed %s from %s to %s", name, was, now)
		}
	}
	upgradeAndBack(t, c)
	refusesWhileProxiesRun(t, stays)

	r := c.Run(t, "uninstall", "--yes")
	if r.Code != 0 || !strings.Contains(r.Stdout, "kept: CustomResourceDefinition virtualservices.networking.istio.io: it belongs to Istio") {
		t.Errorf("uninstall: exit status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	leftBehind(t, c, before, stays.Name)
	now, err := c.Dynamic.Resource(definitions).Get(t.Context(), route.GetName(), metav1.GetOptions{})
	if err != nil || now.GetGeneration() != route.GetGeneration() || fmt.Sprint(now.GetLabels()) != fmt.Sprint(route.GetLabels()) {
		t.Errorf("the definition of others was touched: %v, generation %d, labels %v", err, now.GetGeneration(), now.GetLabels())
	}
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// foreignDefinition makes a definition that Istio owns, of a release before v1
// of VirtualService, until the test ends.
func foreignDefinition(t *testing.T, c *kubetest.Cluster) *unstructured.Unstructured {
	t.Helper()
	ours, err := install.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(ours, func(u *unstructured.Unstructured) bool { return u.GetName() == "virtualservices.networking.istio.io" })
	u := ours[i].DeepCopy()
	u.SetLabels(map[string]string{"app": "istio-pilot"})
	u.SetAnnotations(nil)
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, v := range versions {
		if v := v.(map[string]any); v["name"] == "v1" {
			v["served"] = false
		}
	}
	if err := unstructured.SetNestedSlice(u.Object, versions, "spec", "versions"); err != nil {
		t.Fatal(err)
	}
	api := c.Dynamic.Resource(definitions)
	if _, err := api.Create(t.Context(), u, metav1.CreateOptions{FieldManager: "istioctl"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.WithoutCancel(t.Context()), u.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	var made *unstructured.Unstructured
	kubetest.Wait(t, kubetest.Patience, "a definition to be established", func(ctx context.Context) (err error) {
		if made, err = api.Get(ctx, u.GetName(), metav1.GetOptions{}); err == nil && !strings.Contains(fmt.Sprint(made.Object["status"]), "status:True type:Established") {
			err = fmt.Errorf("status %v", made.Object["status"])
		}
		return err
	})
	return made
}

const full = `
apiVersion: v1
kind: ResourceQuota
metadata: {name: full, namespace: seine-system}
spec: {hard: {pods: "0"}}
`

const awayWebhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: away.example.com}
webhooks:
- name: away.example.com
  clientConfig: {service: {name: away, namespace: seine-system, path: /}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: seine-system}}
  failurePolicy: Fail
  sideEffects: None
  admissionReviewVersions: [v1]
`

// waitsSayWhy begins an installation in clusters that cannot take it. Each wait
// says what it waits for; whoever gives up is told how to go on.
func waitsSayWhy(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	begin := func(sentence string, args ...string) {
		t.Helper()
		r := c.SeineUntil(t, sentence, slices.Concat([]string{"install", "--apply", "--timeout=90s"}, kubetest.Images(), args)...)
		if r.Code != 1 || !strings.Contains(r.Stderr, "it is half done: running the same command again goes on where it stopped") {
			t.Errorf("interrupted: exit status %d\n%s", r.Code, r.Stderr)
		}
	}
	begin("no node takes it: ", "--set", "nodeSelector.nowhere=here")
	begin("seined:no-such-tag cannot be pulled: ", "--set", "image.tag=no-such-tag")
	lines := unwell(t, c)
	if l := lines["release"]; l.Status != "failed" || !strings.Contains(l.Detail, "half done") || !strings.Contains(l.Mend, "run seine install again") {
		t.Errorf("release: %+v", l)
	}
	if l := lines["seined"]; l.Status != "failed" || !strings.Contains(l.Detail, "cannot be pulled") || !strings.Contains(l.Mend, "image.registry") {
		t.Errorf("seined: %+v", l)
	}
	for _, refusal := range []struct{ manifest, refuses, says, level string }{
		{awayWebhook, "failed calling webhook", "that webhook does not answer", "warn"},
		{full, "exceeded quota", "raise the ResourceQuota of the namespace", "error"},
	} {
		c.Apply(t, refusal.manifest)
		t.Cleanup(func() { c.Delete(t, refusal.manifest) })
		// The API server takes a moment to heed it.
		kubetest.Wait(t, kubetest.Patience, "pods to be refused: "+refusal.refuses, func(ctx context.Context) error {
			if err := tryPod(ctx, c); err == nil || !strings.Contains(err.Error(), refusal.refuses) {
				return fmt.Errorf("a pod: %v", err)
			}
			return nil
		})
		begin(refusal.says, "--set", "logLevel="+refusal.level)
		c.Delete(t, refusal.manifest)
	}
}

// tryPod asks the API server whether it would take a pod of the control plane's
// namespace.
func tryPod(ctx context.Context, c *kubetest.Cluster) error {
	yes, no := true, false
	_, err := c.Client.CoreV1().Pods(kubetest.System).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "tried"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "tried", Image: "none", SecurityContext: &corev1.SecurityContext{
			RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}}}},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// A line of `seine check -o json`.
type line struct{ Name, Status, Detail, Mend string }

// report runs `seine check` and returns its lines by name.
func report(t *testing.T, c *kubetest.Cluster, args ...string) (map[string]line, kubetest.Ran) {
	t.Helper()
	r := c.Run(t, append([]string{"check", "-o", "json"}, args...)...)
	var all struct{ Lines []line }
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		t.Fatalf("seine check: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	lines := map[string]line{}
	for _, l := range all.Lines {
		lines[l.Name] = l
		if (l.Status == "failed" || l.Status == "warning") && l.Mend == "" {
			t.Errorf("what to do about %q?", l.Name)
		}
	}
	return lines, r
}

// checked is report of a mesh in which nothing has failed, but that the machine
// under the tests may be short of CPU.
func checked(t *testing.T, c *kubetest.Cluster, args ...string) map[string]line {
	t.Helper()
	lines, r := report(t, c, args...)
	steal := lines["CPU steal"].Status
	if want := map[bool]int{true: 1}[steal == "failed"]; r.Code != want {
		t.Errorf("seine check: exit status %d\n%s", r.Code, r.Stdout)
	}
	for name, l := range lines {
		if l.Status == "failed" && name != "CPU steal" {
			t.Errorf("seine check: %+v", l)
		}
	}
	if steal == "" {
		t.Errorf("seine check says nothing of CPU steal:\n%s", r.Stdout)
	}
	return lines
}

// unwell is report of a cluster in which something has failed.
func unwell(t *testing.T, c *kubetest.Cluster, args ...string) map[string]line {
	t.Helper()
	lines, r := report(t, c, args...)
	if r.Code != 1 {
		t.Errorf("seine check: exit status %d, want 1\n%s", r.Code, r.Stdout)
	}
	return lines
}

// versions are the resource versions of what an installation makes, but its
// history, which notes each.
func versions(t *testing.T, c *kubetest.Cluster) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range []schema.GroupVersionResource{
		definitions,
		{Version: "v1", Resource: "namespaces"}, {Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "services"}, {Version: "v1", Resource: "serviceaccounts"},
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}, {Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"},
	} {
		list, err := c.Dynamic.Resource(r).List(t.Context(), metav1.ListOptions{LabelSelector: install.LabelPartOf + "=" + install.PartOf})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			out[o.GetKind()+" "+o.GetName()] = o.GetResourceVersion()
		}
	}
	if len(out) < 30 {
		t.Errorf("only %d objects are marked as Seine's", len(out))
	}
	return out
}

// upgradeAndBack changes a value, then asks for an image that is not there, and
// goes back to what worked; seined serves all the while.
func upgradeAndBack(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	system := c.In(t, kubetest.System)
	dry := c.Run(t, "upgrade", "--dry-run", "--set", "logLevel=debug")
	if dry.Code != 2 || !strings.Contains(dry.Stdout, "change Deployment seine-system/seined") || !strings.Contains(dry.Stdout, "+") || !strings.Contains(dry.Stdout, "--log-level=debug") {
		t.Errorf("dry run: exit status %d\n%s%s", dry.Code, dry.Stdout, dry.Stderr)
	}
	if r := c.Run(t, "upgrade", "--set", "logLevel=debug"); r.Code != 1 || !strings.Contains(r.Stderr, "add --yes") {
		t.Errorf("with nobody to ask: exit status %d, %s", r.Code, r.Stderr)
	}
	if out := c.Seine(t, "upgrade", "--yes", "--set", "logLevel=debug"); !strings.HasPrefix(out, dry.Stdout) {
		t.Errorf("the upgrade shows another difference than its dry run:\n%s\nand\n%s", out, dry.Stdout)
	}
	if r := c.Run(t, "upgrade", "--dry-run", "--set", "logLevel=debug"); r.Code != 0 || r.Stdout != "nothing would change\n" {
		t.Errorf("dry run of what is so: exit status %d\n%s", r.Code, r.Stdout)
	}

	r := c.SeineUntil(t, "seined:no-such-tag cannot be pulled: ", "upgrade", "--yes", "--timeout=90s", "--set", "image.tag=no-such-tag")
	if r.Code != 1 || !strings.Contains(r.Stderr, "`seine upgrade --rollback` returns to the release before") {
		t.Errorf("a bad upgrade: exit status %d, %s", r.Code, r.Stderr)
	}
	d, err := c.Client.AppsV1().Deployments(kubetest.System).Get(t.Context(), "seined", metav1.GetOptions{})
	if err != nil || d.Status.AvailableReplicas == 0 {
		t.Errorf("no seined serves while another cannot start: %v, %+v", err, d.Status)
	}
	out := c.Seine(t, "upgrade", "--rollback", "--yes")
	if !strings.Contains(out, "no-such-tag") || !strings.Contains(out, "ready in ") {
		t.Errorf("rollback:\n%s", out)
	}
	system.WaitReady(t, "seined")
	if args := fmt.Sprint(seinedArgs(t, c)); !strings.Contains(args, "--log-level=debug") {
		t.Errorf("seined is back with %s", args)
	}
	c.Seine(t, "upgrade", "--rollback", "--yes")
	if args := fmt.Sprint(seinedArgs(t, c)); !strings.Contains(args, "--log-level=debug") {
		t.Errorf("back from going back: seined runs with %s", args)
	}
}

func seinedArgs(t *testing.T, c *kubetest.Cluster) []string {
	t.Helper()
	d, err := c.Client.AppsV1().Deployments(kubetest.System).Get(t.Context(), "seined", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Spec.Template.Spec.Containers[0].Args
}

// refusesWhileProxiesRun has a pod in the mesh while somebody uninstalls.
func refusesWhileProxiesRun(t *testing.T, n *kubetest.Namespace) {
	t.Helper()
	n.Apply(t, client)
	n.WaitReady(t, "client")
	pod := n.ReadyPod(t, "app=client").Name
	if r := n.Run(t, "uninstall", "--yes"); r.Code != 1 || !strings.Contains(r.Stderr, "proxies run in 1 pods: "+n.Name+"/"+pod) || !strings.Contains(r.Stderr, "--force") {
		t.Errorf("uninstall under a proxy: exit status %d, %s", r.Code, r.Stderr)
	}
	checked(t, n.Cluster)
	n.Delete(t, client)
	n.WaitNone(t, "app=client")
}

// leftBehind fails the test if there is what was not there before, but for what
// Kubernetes itself makes in a test's namespace.
func leftBehind(t *testing.T, c *kubetest.Cluster, before []string, namespace string) {
	t.Helper()
	left := slices.DeleteFunc(c.Everything(t), func(s string) bool {
		return slices.Contains(before, s) || s == "ConfigMap "+namespace+"/kube-root-ca.crt" || s == "ServiceAccount "+namespace+"/default"
	})
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestNightlyInstallationByPipe: what `seine install` writes into a pipe is all that
// kubectl needs.
func TestNightlyInstallationByPipe(t *testing.T) {
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Skip("there is no kubectl")
	}
	c := kubetest.Connect(t)
	c.Uninstall(t)
	before := c.Everything(t)
	manifests := c.Seine(t, slices.Concat([]string{"install"}, kubetest.Images())...)
	kubectl := exec.CommandContext(t.Context(), "kubectl", "apply", "-f", "-")
	kubectl.Stdin = strings.NewReader(manifests)
	if out, err := kubectl.CombinedOutput(); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	c.In(t, kubetest.System).WaitReady(t, "seined")
	kubetest.Wait(t, kubetest.Patience, "the webhooks to have their caBundle", func(context.Context) error {
		if lines, r := report(t, c); r.Code == 1 {
			return fmt.Errorf("%+v", lines)
		}
		return nil
	})
	c.Seine(t, "uninstall", "--yes")
	leftBehind(t, c, before, "")
}

// TestCheckNamesTrouble: what stands in the way of an installation or between its
// parts is named, with the mend.
func TestCheckNamesTrouble(t *testing.T) {
	c := kubetest.Connect(t)
	c.Install(t)
	t.Run("permission", func(t *testing.T) {
		n := c.Namespace(t, "guest", nil)
		n.Apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: guest}}`)
		token, err := c.Client.CoreV1().ServiceAccounts(n.Name).CreateToken(t.Context(), "guest", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		guest := rest.AnonymousClientConfig(c.Config)
		guest.BearerToken = token.Status.Token
		kubeconfig := kubetest.Kubeconfig(t, guest)
		l := unwell(t, c, "--pre", "--kubeconfig", kubeconfig)["your permissions"]
		if l.Status != "failed" || !strings.Contains(l.Detail, "create,patch,delete clusterroles.rbac.authorization.k8s.io") || !strings.Contains(l.Mend, "cluster administrator") {
			t.Errorf("%+v", l)
		}
		if r := c.Run(t, "install", "--apply", "--kubeconfig", kubeconfig); r.Code != 1 || !strings.Contains(r.Stderr, "`seine check --pre` lists each that is missing") {
			t.Errorf("install: exit status %d, %s", r.Code, r.Stderr)
		}
	})
	t.Run("old cluster", func(t *testing.T) {
		l := unwell(t, c, "--pre", "--kubeconfig", kubetest.Kubeconfig(t, &rest.Config{Host: older(t, c, "v1.27.16")}))["Kubernetes version"]
		if l.Status != "failed" || !strings.Contains(l.Detail, "v1.27.16 is older than 1.28") {
			t.Errorf("%+v", l)
		}
	})
	t.Run("webhook port", func(t *testing.T) {
		if os.Getenv("SEINE_CLUSTER") == "" {
			t.Skip("only a cluster of our own has an API server whose network can be changed")
		}
		nft := func(ctx context.Context, args string) {
			t.Helper()
			cmd := exec.CommandContext(ctx, "nft", "-f", "-")
			cmd.Stdin = strings.NewReader(args)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("nft: %v: %s", err, out)
			}
		}
		// This program runs in the API server's network.
		nft(t.Context(), "table inet firewall { chain output { type filter hook output priority 0; tcp dport 15017 ct state new drop; }; }")
		t.Cleanup(func() { nft(context.WithoutCancel(t.Context()), "delete table inet firewall") })
		l := unwell(t, c)["API server → injector"]
		if l.Status != "failed" || !strings.Contains(l.Mend, "firewall or NetworkPolicy keeps the API server from port 15017") {
			t.Errorf("%+v", l)
		}
	})
	checked(t, c)
}

// older is the cluster seen through a server that claims another version.
func older(t *testing.T, c *kubetest.Cluster, version string) string {
	t.Helper()
	transport, err := rest.TransportFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"major":"1","minor":"27","gitVersion":"`+version+`"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
