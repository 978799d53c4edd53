package controlplane

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/seinemesh/seine/cluster"
)

// freePort is one that nobody listens on at this moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// apiServer asks the webhook as an API server does: knowing it by the caBundle
// that it finds in the configuration.
type apiServer struct {
	t       *testing.T
	address string
	client  kubernetes.Interface
}

func (a *apiServer) bundle() []byte {
	c, err := a.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(a.t.Context(), injectorName, metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	for _, w := range c.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, c.Webhooks[0].ClientConfig.CABundle) {
			return nil
		}
	}
	return c.Webhooks[0].ClientConfig.CABundle
}

func (a *apiServer) ask(namespace string, pod *corev1.Pod, dryRun bool) (*admissionv1.AdmissionResponse, error) {
	raw, err := json.Marshal(pod)
	if err != nil {
		a.t.Fatal(err)
	}
	body, err := json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{UID: "u1", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Namespace: namespace,
			Object: runtime.RawExtension{Raw: raw}, DryRun: &dryRun},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.bundle())
	h := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "seined.seine-system.svc"}}}
	r, err := h.Post("https://"+a.address+"/inject", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &review); err != nil {
		a.t.Fatalf("%d %s", r.StatusCode, text)
	}
	if review.Kind != "AdmissionReview" || review.Response == nil || review.Response.UID != "u1" {
		a.t.Fatalf("%s", text)
	}
	return review.Response, nil
}

func TestWebhook(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	world, _ := fakeCluster(t)
	hooks := func(name string) admissionregistrationv1.MutatingWebhook {
		return admissionregistrationv1.MutatingWebhook{Name: name, ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: []byte("of long ago")}}
	}
	config := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: injectorName}, Webhooks: []admissionregistrationv1.MutatingWebhook{hooks("a"), hooks("b")},
	}
	mutating := world.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	if _, err := mutating.Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	api := &apiServer{t: t, address: freePort(t), client: world.Client}
	start(t, dir, func(o *Options) {
		o.Cluster, o.State, o.Socket, o.Webhook = world, "", "", api.address
		o.Log = slog.New(slog.DiscardHandler)
	})
	known := func() bool { return strings.HasPrefix(string(api.bundle()), "-----BEGIN CERTIFICATE") }
	eventually(t, "the API server to know the webhook", known)

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
	a, err := api.ask("default", pod, false)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Allowed || a.PatchType == nil || *a.PatchType != admissionv1.PatchTypeJSONPatch || !strings.Contains(string(a.Patch), "seine-proxy") {
		t.Errorf("%+v", a)
	}

	// A namespace without a label.
	if a, err = api.ask(cluster.Namespace, pod, false); err != nil || !a.Allowed || a.Patch != nil || len(a.Warnings) > 0 {
		t.Errorf("%+v, %v", a, err)
	}

	// What nobody can read is refused, and says why.
	wrong := pod.DeepCopy()
	wrong.Annotations = map[string]string{"sidecar.istio.io/proxyCPU": "lots"}
	if a, err = api.ask("default", wrong, false); err != nil || a.Allowed || !strings.Contains(a.Result.Message, "sidecar.istio.io/proxyCPU") {
		t.Errorf("%+v, %v", a, err)
	}

	// What is skipped although it was asked for is answered, and no more: whoever asks
	// may have made the pod up.
	host := pod.DeepCopy()
	host.Spec.HostNetwork = true
	for _, dry := range []bool{true, false} {
		if a, err = api.ask("default", host, dry); err != nil || !a.Allowed || a.Patch != nil || len(a.Warnings) != 1 || !strings.Contains(a.Warnings[0], "hostNetwork") {
			t.Errorf("%+v, %v", a, err)
		}
	}
	writes := 0
	for _, a := range world.Client.(*fake.Clientset).Actions() {
		if a.GetVerb() == "create" && a.GetResource().Resource == "events" {
			writes++
		}
	}
	if writes != 0 {
		t.Errorf("reviews that nobody vouches for made %d Events", writes)
	}

	// Values are read while running; wrong ones change nothing.
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: cluster.Namespace, Name: "seine"}, Data: map[string]string{"injector": "image: other/proxy:7\n"}}
	maps := world.Client.CoreV1().ConfigMaps(cluster.Namespace)
	if _, err := maps.Create(t.Context(), settings, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	touched := 0
	has := func(image string) func() bool {
		return func() bool {
			// The API in memory loses what is written between a list and its watch:
			// write again.
			touched++
			settings.Annotations = map[string]string{"touched": strconv.Itoa(touched)}
			if _, err := maps.Update(t.Context(), settings, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			a, err := api.ask("default", pod, false)
			return err == nil && strings.Contains(string(a.Patch), `"image":"`+image)
		}
	}
	eventually(t, "the other image", has("other/proxy:7"))
	settings.Data["injector"] = "imagge: x\n"
	if !has("other/proxy:7")() {
		t.Error("wrong values changed something")
	}
	delete(settings.Data, "injector")
	eventually(t, "the default image", has("seinemesh/seine-proxy:"))

	// Somebody else's roots do not stay.
	c, err := mutating.Get(t.Context(), injectorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Webhooks[1].ClientConfig.CABundle = nil
	if _, err := mutating.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the roots again", known)
}

func TestLeadingNumber(t *testing.T) {
	for in, want := range map[string]int{"": 0, "34": 34, "29+": 29, "x": 0} {
		if got := leadingNumber(in); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}
