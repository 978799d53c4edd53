package inject

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "write the goldens")

func values() *Values {
	v := Defaults("seinemesh/seine-proxy:1.2.3")
	return &v
}

// variants are the clusters of the goldens, by file.
var variants = map[string]func(*Values){
	"deployment": func(*Values) {}, "job": func(*Values) {}, "skipped": func(*Values) {}, "list": func(*Values) {},
	"ordinary": func(v *Values) { v.Native = false },
	"dns":      func(*Values) {},
	"cni":      func(v *Values) { v.CNI, v.ImagePullSecrets = true, []string{"registry"} },
}

func manifest(t *testing.T, v *Values, in []byte) ([]byte, string) {
	t.Helper()
	var out bytes.Buffer
	var said strings.Builder
	err := Manifest(bytes.NewReader(in), &out, ManifestOptions{Values: v, Say: func(r, s string) { said.WriteString(r + ": " + s + "\n") }})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), said.String()
}

func TestGoldens(t *testing.T) {
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			in, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			v := values()
			change(v)
			got, said := manifest(t, v, in)
			golden := filepath.Join("testdata", name+".golden")
			got = append(got, "\n# said:\n# "+strings.ReplaceAll(said, "\n", "\n# ")+"\n"...)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestTwice: what is injected already stays as it is, to the byte.
func TestTwice(t *testing.T) {
	for name, change := range variants {
		in, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		v := values()
		change(v)
		once, _ := manifest(t, v, in)
		twice, _ := manifest(t, v, once)
		if d := cmp.Diff(string(once), string(twice)); d != "" {
			t.Errorf("%s: the second time changes\n%s", name, d)
		}
	}
}

// TestSameAsWebhook: the patch that an API server applies to the pod of a
// workload makes the very pod that the manifest has.
func TestSameAsWebhook(t *testing.T) {
	for name, change := range variants {
		in, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		v := values()
		change(v)
		out, _ := manifest(t, v, in)
		before, after := pods(t, in), pods(t, out)
		if len(before) != len(after) {
			t.Fatalf("%s: %d pods, then %d", name, len(before), len(after))
		}
		for i := range before {
			var pod corev1.Pod
			if err := json.Unmarshal(before[i], &pod); err != nil {
				t.Fatal(err)
			}
			ns := "default"
			if pod.Namespace != "" {
				ns = pod.Namespace
			}
			r, err := Pod(&pod, Namespace{Name: ns, Labels: map[string]string{LabelInject: "enabled"}}, v)
			if err != nil {
				t.Fatal(err)
			}
			got := before[i]
			if len(r.Patch) > 0 {
				ops, err := json.Marshal(r.Patch)
				if err != nil {
					t.Fatal(err)
				}
				p, err := jsonpatch.DecodePatch(ops)
				if err != nil {
					t.Fatal(err)
				}
				if got, err = p.Apply(before[i]); err != nil {
					t.Fatalf("%s: %v\n%s", name, err, ops)
				}
			}
			if !jsonpatch.Equal(got, after[i]) {
				t.Errorf("%s, pod %d:\nwebhook  %s\nmanifest %s", name, i, got, after[i])
			}
		}
	}
}

// pods are the pods of a stream, read by a way of its own.
func pods(t *testing.T, text []byte) [][]byte {
	t.Helper()
	var out [][]byte
	d := yaml.NewDecoder(bytes.NewReader(text))
	var visit func(map[string]any)
	visit = func(r map[string]any) {
		var at any = r
		switch r["kind"] {
		case "List":
			for _, i := range r["items"].([]any) {
				visit(i.(map[string]any))
			}
			return
		case "Pod":
		case "Deployment", "Job":
			at = r["spec"].(map[string]any)["template"]
		case "CronJob":
			at = r["spec"].(map[string]any)["jobTemplate"].(map[string]any)["spec"].(map[string]any)["template"]
		default:
			return
		}
		pod := at.(map[string]any)
		if pod["metadata"] == nil { // an API server's pod always has one
			pod["metadata"] = map[string]any{}
		}
		b, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	for {
		var r map[string]any
		if d.Decode(&r) != nil {
			return out
		}
		visit(r)
	}
}

// TestReinvoked: a container that another webhook adds behind ours has its
// probes rewritten as well.
func TestReinvoked(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "a",
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}}}}}
	ns := Namespace{Name: "shop", Labels: map[string]string{LabelInject: "enabled"}}
	inject := func() {
		t.Helper()
		r, err := Pod(pod, ns, values())
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		ops, _ := json.Marshal(r.Patch)
		p, err := jsonpatch.DecodePatch(ops)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = p.Apply(b); err != nil {
			t.Fatalf("%v\n%s", err, ops)
		}
		pod = &corev1.Pod{}
		if err := json.Unmarshal(b, pod); err != nil {
			t.Fatal(err)
		}
	}
	inject()
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "late", Image: "b",
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/$(x)", Port: intstr.FromInt32(81)}}}})
	inject()
	inject()
	c, _ := own(pod)
	var env string
	for _, e := range c.Env {
		if e.Name == envProbes {
			env = e.Value
		}
	}
	want := `{"/app-health/late/readyz":{"httpGet":{"path":"/$$(x)","port":81}},"/app-health/main/livez":{"tcpSocket":{"port":80}}}`
	if env != want {
		t.Errorf("%s\nwant %s", env, want)
	}
	if g := pod.Spec.Containers[1].ReadinessProbe.HTTPGet; g.Path != "/app-health/late/readyz" || g.Port.IntVal != 15020 {
		t.Errorf("%+v", g)
	}
	if n := len(pod.Spec.InitContainers); n != 2 {
		t.Errorf("%d init containers", n)
	}
}
