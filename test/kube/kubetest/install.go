package kubetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// System is the control plane's namespace.
const System = "seine-system"

// Seine runs the seine program (SEINE, or that of PATH) against the cluster and
// returns what it printed to stdout; when it fails, so does the test.
func (c *Cluster) Seine(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), cmp.Or(os.Getenv("SEINE"), "seine"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("seine %v: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Install installs the mesh, or brings back what a test before has changed, and
// returns how long it took until all of it was ready.
func (c *Cluster) Install(t testing.TB, args ...string) time.Duration {
	t.Helper()
	c.In(t, System)
	args = append([]string{"install", "--apply", "-o", "json"}, args...)
	if repository := os.Getenv("SEINE_REPOSITORY"); repository != "" {
		args = append(args, "--set", "image.seined="+repository+"/seined", "--set", "image.proxy="+repository+"/seine-proxy")
	}
	var report struct{ TookNanoseconds time.Duration }
	if err := json.Unmarshal([]byte(c.Seine(t, args...)), &report); err != nil {
		t.Fatalf("seine install: %v", err)
	}
	return report.TookNanoseconds
}

// ControlPlaneArg adds an argument to seined until the test ends, and waits
// until seined is rolled out with it.
func (c *Cluster) ControlPlaneArg(t testing.TB, arg string) {
	t.Helper()
	n := &Namespace{Cluster: c, Name: System}
	deployments := c.Client.AppsV1().Deployments(System)
	before, err := deployments.Get(t.Context(), "seined", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch := func(ctx context.Context, args []string) {
		t.Helper()
		p, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": args}})
		if err == nil {
			_, err = deployments.Patch(ctx, "seined", types.JSONPatchType, p, metav1.PatchOptions{})
		}
		if err != nil {
			t.Fatalf("arguments of seined: %v", err)
		}
	}
	args := before.Spec.Template.Spec.Containers[0].Args
	patch(t.Context(), append(args[:len(args):len(args)], arg))
	t.Cleanup(func() { patch(context.WithoutCancel(t.Context()), args) })
	n.WaitReady(t, "seined")
}
