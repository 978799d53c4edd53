package inject

import (
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestOddPods: whatever a pod's author writes is answered.
func TestOddPods(t *testing.T) {
	v := Defaults("image")
	for _, raw := range []string{
		``, `null`, `{}`, `{"spec":null}`,
		`{"spec":{"containers":[{"name":"a","livenessProbe":{},"lifecycle":{"postStart":{}}}]}}`,
		`{"spec":{"containers":[{"name":"a","livenessProbe":{"grpc":{"port":-1}}}]}}`,
		`{"spec":{"initContainers":[{"name":"seine-proxy"}],"containers":[{"name":"a","livenessProbe":{"httpGet":{"port":"x"}}}]}}`,
		`{"spec":{"containers":[{"name":"seine-proxy","env":[{"name":"SEINE_KUBE_APP_PROBERS","value":"null"}]},{"name":"a","livenessProbe":{"httpGet":{"port":80}}}]}}`,
	} {
		q := &admissionv1.AdmissionRequest{UID: "u", Kind: metav1.GroupVersionKind{Kind: "Pod"}, Object: runtime.RawExtension{Raw: []byte(raw)}}
		a, r := Review(q, Namespace{Name: "n", Labels: map[string]string{LabelInject: "enabled"}}, &v)
		if a.UID != "u" || a.Allowed != (r != nil) {
			t.Errorf("%s: %+v", raw, a)
		}
	}
}
