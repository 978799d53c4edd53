package kubetest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// System is the control plane's namespace.
const System = "seine-system"

// Program is the seine program: SEINE, or that of PATH.
func Program() string { return cmp.Or(os.Getenv("SEINE"), "seine") }

// Images are the arguments by which install and upgrade take the images under
// test: those of SEINE_REPOSITORY, or the ones by their own names.
func Images() []string {
	repository := os.Getenv("SEINE_REPOSITORY")
	if repository == "" {
		return nil
	}
	var args []string
	for key, name := range map[string]string{"seined": "seined", "proxy": "seine-proxy", "cni": "seine-cni"} {
		args = append(args, "--set", "image."+key+"="+repository+"/"+name)
	}
	return args
}

// Ran is how a program ended.
type Ran struct {
	Stdout, Stderr string
	Code           int // exit status
}

// Run runs the seine program against the cluster, until it ends by itself; also
// while the test is being cleaned up after.
func (c *Cluster) Run(t testing.TB, args ...string) Ran {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), Program(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("seine %v: %v", args, err)
	}
	return Ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Seine is Run for what must succeed; it returns what was printed to stdout.
func (c *Cluster) Seine(t testing.TB, args ...string) string {
	t.Helper()
	r := c.Run(t, args...)
	if r.Code != 0 {
		t.Fatalf("seine %v: exit status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// SeineUntil starts the seine program, waits until it has said sentence on
// stderr, interrupts it, and returns how it ended. If it ends without having said
// so, the test fails.
func (c *Cluster) SeineUntil(t testing.TB, sentence string, args ...string) Ran {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Program(), args...)
	var stdout, said bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("seine %v: %v", args, err)
	}
	heard := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if !heard && strings.Contains(lines.Text(), sentence) {
			heard = true
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatalf("interrupt seine %v: %v", args, err)
			}
		}
	}
	_ = cmd.Wait() // its exit status is the caller's to judge
	if !heard {
		t.Fatalf("seine %v did not say %q:\n%s%s", args, sentence, stdout.String(), said.String())
	}
	return Ran{stdout.String(), said.String(), cmd.ProcessState.ExitCode()}
}

// Install installs the mesh, or brings back what a test before has changed, its
// values included, and returns how long it took until all of it was ready.
func (c *Cluster) Install(t testing.TB, args ...string) time.Duration {
	t.Helper()
	c.In(t, System)
	args = slices.Concat([]string{"-o", "json"}, args, Images())
	r := c.Run(t, append([]string{"install", "--apply"}, args...)...)
	if r.Code != 0 && strings.Contains(r.Stderr, "already installed") {
		r = c.Run(t, append([]string{"upgrade", "--yes", "--reset-values"}, args...)...)
	}
	if r.Code != 0 {
		t.Fatalf("install the mesh: exit status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	var report struct{ TookNanoseconds time.Duration }
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
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
