package inject

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestChoose(t *testing.T) {
	type labels = map[string]string
	for _, k := range []struct {
		name               string
		ns, pod, annotated labels
		change             func(*Values, *corev1.Pod)
		space              string
		want               string // "": injected; otherwise the reason
		asked              bool
	}{
		{name: "nothing said", want: "NotAsked"},
		{name: "namespace", ns: labels{LabelInject: "enabled"}},
		{name: "namespace, true", ns: labels{LabelInject: "true"}},
		{name: "istio namespace", ns: labels{LabelIstioInjection: "enabled"}},
		{name: "istio labels off", ns: labels{LabelIstioInjection: "enabled"}, change: func(v *Values, _ *corev1.Pod) { v.IstioLabels = false }, want: "NotAsked"},
		{name: "ours wins over Istio's", ns: labels{LabelInject: "disabled", LabelIstioInjection: "enabled"}, want: "NotAsked"},
		{name: "istio disabled", ns: labels{LabelIstioInjection: "disabled", LabelIstioRevision: "default"}, want: "NotAsked"},
		{name: "revision", ns: labels{LabelRevision: "default"}},
		{name: "istio revision", ns: labels{LabelIstioRevision: "default"}},
		{name: "another revision", ns: labels{LabelRevision: "canary"}, want: "NotAsked"},
		{name: "pod of another revision", ns: labels{LabelInject: "enabled"}, pod: labels{LabelRevision: "canary"}, want: "NotAsked"},
		{name: "pod", pod: labels{LabelInject: "enabled"}},
		{name: "pod refuses", ns: labels{LabelInject: "enabled"}, pod: labels{LabelInject: "disabled"}, want: "NotAsked"},
		{name: "pod, Istio's label", pod: labels{LabelIstioInject: "true"}},
		{name: "pod refuses, Istio's label", ns: labels{LabelInject: "enabled"}, pod: labels{LabelIstioInject: "false"}, want: "NotAsked"},
		{name: "pod refuses, Istio's annotation", ns: labels{LabelInject: "enabled"}, annotated: labels{LabelIstioInject: "false"}, want: "NotAsked"},
		{name: "label before annotation", ns: labels{LabelInject: "enabled"}, pod: labels{LabelIstioInject: "true"}, annotated: labels{LabelIstioInject: "false"}},
		{name: "pod in a namespace that refuses", ns: labels{LabelInject: "disabled"}, pod: labels{LabelInject: "enabled"}, want: "NotAsked"},
		{name: "host network", ns: labels{LabelInject: "enabled"}, change: func(_ *Values, p *corev1.Pod) { p.Spec.HostNetwork = true }, want: "HostNetwork", asked: true},
		{name: "system", space: "kube-system", ns: labels{LabelInject: "enabled"}, want: "SystemNamespace", asked: true},
		{name: "control plane", space: "seine-system", ns: labels{LabelInject: "enabled"}, want: "SystemNamespace", asked: true},
		{name: "never", ns: labels{LabelInject: "enabled"}, change: func(v *Values, _ *corev1.Pod) { v.NeverInject = []string{"shop"} }, want: "SystemNamespace", asked: true},
		{name: "Istio's sidecar", ns: labels{LabelInject: "enabled"}, change: func(_ *Values, p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "istio-proxy"}}
		}, want: "AlreadyInjected", asked: true},
		{name: "Windows", ns: labels{LabelInject: "enabled"}, change: func(_ *Values, p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, want: "Windows", asked: true},
	} {
		t.Run(k.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: k.pod, Annotations: k.annotated}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
			v := values()
			if k.change != nil {
				k.change(v, pod)
			}
			space := "shop"
			if k.space != "" {
				space = k.space
			}
			r, err := Pod(pod, Namespace{Name: space, Labels: k.ns}, v)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case k.want == "" && r.Skip != nil:
				t.Errorf("skipped: %v", r.Skip)
			case k.want != "" && (r.Skip == nil || r.Skip.Reason != k.want || r.Skip.Asked != k.asked || r.Skip.Detail == ""):
				t.Errorf("%+v, want %s", r.Skip, k.want)
			}
		})
	}
}

func TestAnnotationsRefused(t *testing.T) {
	for key, value := range map[string]string{
		"sidecar.istio.io/proxyCPU":                        "lots",
		"sidecar.istio.io/proxyMemoryLimit":                "-1Gi",
		"traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.0.0.0/33",
		"traffic.sidecar.istio.io/excludeOutboundPorts":    "mysql",
		"traffic.sidecar.istio.io/includeInboundPorts":     "http",
		"traffic.sidecar.istio.io/excludeInterfaces":       "averyverylonginterface",
		"sidecar.istio.io/rewriteAppHTTPProbers":           "maybe",
		"status.sidecar.istio.io/port":                     "0",
		"readiness.status.sidecar.istio.io/periodSeconds":  "soon",
		"sidecar.istio.io/logLevel":                        "loud",
		"proxy.istio.io/config":                            "concurrency: many",
		"sidecar.istio.io/userVolume":                      "[]",
		"seine.dev/credentials":                            "../x",
		"seine.dev/proxy-protocol":                         "http",
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{key: value}}}
		domain, _, _ := strings.Cut(key, "/")
		if _, err := Pod(pod, Namespace{Name: "shop", Labels: map[string]string{LabelInject: "enabled"}}, values()); err == nil || !strings.Contains(err.Error(), domain) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestAnnotationsWarn(t *testing.T) {
	for key, want := range map[string]string{
		"sidecar.istio.io/statsInclusionPrefixes": "changes nothing",
		"sidecar.istio.io/proxyImage":             "seine.dev/proxyImage",
		"inject.istio.io/templates":               "changes nothing",
		"sidecar.istio.io/interceptionMode":       "TPROXY",
		"proxy.istio.io/config":                   "tracing",
		"seine.dev/proxyImagee":                   "changes nothing",
	} {
		value := map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY", "proxy.istio.io/config": "{tracing: {lightstep: {address: x}}}"}[key]
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{key: value}}}
		r, err := Pod(pod, Namespace{Name: "shop", Labels: map[string]string{LabelInject: "enabled"}}, values())
		if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], want) {
			t.Errorf("%s: %+v, %v", key, r, err)
		}
	}
}

func TestConflicts(t *testing.T) {
	uid := int64(1337)
	for want, c := range map[string]corev1.Container{
		"port 15006":       {Name: "a", Ports: []corev1.ContainerPort{{ContainerPort: 15006}}},
		"user 1337":        {Name: "a", SecurityContext: &corev1.SecurityContext{RunAsUser: &uid}},
		"name of the side": {Name: InitName},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
		if _, err := Pod(pod, Namespace{Name: "shop", Labels: map[string]string{LabelInject: "enabled"}}, values()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestValues(t *testing.T) {
	v := values()
	if err := v.Parse([]byte("mergeMetrics: false\nresources: {requests: {cpu: 5m}}\ndrainLimit: 1m\nnativeSidecar: never\n")); err != nil {
		t.Fatal(err)
	}
	if v.MergeMetrics || v.Resources.Requests.Cpu().String() != "5m" || v.Resources.Requests.Memory().String() != "32Mi" || v.DrainLimit.Minutes() != 1 || !v.RewriteAppHTTPProbers {
		t.Errorf("%+v", v)
	}
	before := *v
	for _, bad := range []string{"imagge: a", "nativeSidecar: perhaps", "statusPort: 0", "control: seined", "image: ''", "concurrency: -1", "drainLimit: -1s", "resources: {requests: {cpu: lots}}"} {
		if err := v.Parse([]byte(bad)); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
	if v.Image != before.Image || v.StatusPort != before.StatusPort {
		t.Error("a refused document changed the values")
	}
}

func FuzzManifest(f *testing.F) {
	f.Add("kind: Pod\nmetadata: &a {name: x}\nspec: {containers: [{name: a}]}\n---\nkind: Deployment\nspec: {template: *a}\n")
	f.Add("kind: List\nitems: [{kind: Pod, spec: {containers: []}}]\n")
	f.Fuzz(func(t *testing.T, s string) {
		var once, twice strings.Builder
		o := ManifestOptions{Values: values()}
		if Manifest(strings.NewReader(s), &once, o) != nil {
			return
		}
		if err := Manifest(strings.NewReader(once.String()), &twice, o); err != nil {
			t.Fatalf("cannot read its own output: %v\n%s", err, once.String())
		}
	})
}

// TestCredentials holds that the sidecar alone gets the Secrets that the pod lets
// it have.
func TestCredentials(t *testing.T) {
	s, err := annotated(map[string]string{"seine.dev/credentials": "a, b.c,a"}, values())
	if err != nil || len(s.volumes) != 2 || len(s.mounts) != 2 {
		t.Fatal(err, s)
	}
	for i, name := range []string{"a", "b.c"} {
		v, m := s.volumes[i], s.mounts[i]
		if v.Secret == nil || v.Secret.SecretName != name || !*v.Secret.Optional || m.Name != v.Name || !m.ReadOnly || m.MountPath != "/etc/seine/credentials/"+name {
			t.Errorf("%v at %v", v, m)
		}
	}
	if _, err := annotated(map[string]string{"seine.dev/credentials": "a,"}, values()); err == nil {
		t.Error("an empty name was taken")
	}
}
