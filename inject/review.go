package inject

import (
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Review answers the API server's question about a pod that is created. Result
// is nil where the pod cannot be read or injected; the answer then refuses it
// and says why: a pod that silently stayed outside the mesh would be worse.
func Review(q *admissionv1.AdmissionRequest, ns Namespace, v *Values) (*admissionv1.AdmissionResponse, *Result) {
	refuse := func(err error) (*admissionv1.AdmissionResponse, *Result) {
		return &admissionv1.AdmissionResponse{UID: q.UID, Result: &metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusBadRequest, Reason: metav1.StatusReasonInvalid, Message: "seine: no sidecar can be put into this pod: " + err.Error(),
		}}, nil
	}
	if q.Kind.Kind != "Pod" || q.Kind.Group != "" {
		return refuse(fmt.Errorf("it is a %s: the webhook's rules must name pods alone", q.Kind.Kind))
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(q.Object.Raw, pod); err != nil {
		return refuse(err)
	}
	r, err := Pod(pod, ns, v)
	if err != nil {
		return refuse(err)
	}
	a := &admissionv1.AdmissionResponse{UID: q.UID, Allowed: true, Warnings: r.Warnings}
	switch {
	case r.Skip != nil && r.Skip.Asked:
		a.Warnings = append(a.Warnings, "seine: "+r.Skip.Detail)
	case len(r.Patch) > 0:
		kind := admissionv1.PatchTypeJSONPatch
		a.PatchType = &kind
		if a.Patch, err = json.Marshal(r.Patch); err != nil {
			return refuse(err)
		}
	}
	return a, r
}
