// Package admission judges resources before a cluster stores them.
//
// In: an AdmissionReview (admission.k8s.io/v1) of the API server. Out: the same
// with an answer: a resource that Build would refuse is refused, with the
// sentences that `seine analyze` prints; what else there is to say of it are
// warnings. It is pure: what is found is asked of a function.
//
// It never refuses what the API server would store unchanged in what matters, so
// that a resource that was bad before can be labelled, finished and deleted; nor
// what is the Gateway API's, whose answer to a bad route is a condition.
package admission

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/config"
)

// MaxBytes bounds a review: an object of a cluster has at most 1.5 MiB (etcd's
// limit), and an update holds two.
const MaxBytes = 4 << 20

// Kubernetes shows 4,096 bytes of warnings, and cuts those beyond 256 off.
const (
	maxWarnings = 10
	maxWarning  = 256
)

// ErrReview is wrapped by Review's errors: what was sent is no review.
var ErrReview = errors.New("admission: not an AdmissionReview of admission.k8s.io/v1")

// Check says what there is to say of a resource if it were in the mesh.
type Check func(object *config.Object) (config.Findings, error)

// Review answers one review.
func Review(body []byte, check Check) ([]byte, error) {
	var review admissionv1.AdmissionReview
	switch err := json.Unmarshal(body, &review); {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrReview, err)
	case review.APIVersion != admissionv1.SchemeGroupVersion.String() || review.Kind != "AdmissionReview" || review.Request == nil || review.Request.UID == "":
		return nil, fmt.Errorf("%w: apiVersion %.60q, kind %.60q", ErrReview, review.APIVersion, review.Kind)
	}
	review.Response = answer(review.Request, check)
	review.Response.UID, review.Request = review.Request.UID, nil
	return json.Marshal(review)
}

func answer(r *admissionv1.AdmissionRequest, check Check) *admissionv1.AdmissionResponse {
	yes := &admissionv1.AdmissionResponse{Allowed: true}
	if r.Operation != admissionv1.Create && r.Operation != admissionv1.Update || r.SubResource != "" {
		return yes
	}
	object, err := decode(r, r.Object.Raw)
	if err != nil {
		return no(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	}
	findings, err := check(object)
	if err != nil {
		return no(http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
	}
	var refused []string
	for i := range findings {
		f := &findings[i]
		text := f.String()
		switch {
		case f.Refused:
			refused = append(refused, text)
		case f.Severity == config.Info:
		case len(yes.Warnings) < maxWarnings:
			yes.Warnings = append(yes.Warnings, short(text))
		}
	}
	if len(refused) == 0 {
		return yes
	}
	before := ""
	switch {
	case strings.HasPrefix(object.APIVersion, "gateway.networking.k8s.io/"):
		before = "it has no effect: "
	case r.Operation == admissionv1.Update && unchanged(r, object):
		before = "it was refused already, and still is: "
	}
	if before != "" {
		for _, text := range refused {
			if len(yes.Warnings) < maxWarnings {
				yes.Warnings = append(yes.Warnings, short(before+text))
			}
		}
		return yes
	}
	return no(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, strings.Join(refused, "\n"))
}

func no(code int32, reason metav1.StatusReason, message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

func short(s string) string {
	if len(s) > maxWarning {
		return strings.ToValidUTF8(s[:maxWarning-3], "") + "..."
	}
	return s
}

// decode takes what config reads out of an object. One that is to get a
// generated name gets one that tells so.
func decode(r *admissionv1.AdmissionRequest, raw []byte) (*config.Object, error) {
	var o struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name         string            `json:"name"`
			GenerateName string            `json:"generateName"`
			Namespace    string            `json:"namespace"`
			Generation   int64             `json:"generation"`
			Labels       map[string]string `json:"labels"`
			Annotations  map[string]string `json:"annotations"`
		} `json:"metadata"`
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("admission: the object of the review cannot be read: %w", err)
	}
	out := &config.Object{
		APIVersion: o.APIVersion, Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, Generation: o.Metadata.Generation,
		Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations,
	}
	if len(o.Spec) > 0 {
		out.Spec = o.Spec
	}
	if out.Namespace == "" {
		out.Namespace = r.Namespace
	}
	if out.Name == "" && o.Metadata.GenerateName != "" {
		out.Name = o.Metadata.GenerateName + "generated"
	}
	return out, nil
}

// unchanged reports whether an update leaves what config reads as it was.
func unchanged(r *admissionv1.AdmissionRequest, now *config.Object) bool {
	before, err := decode(r, r.OldObject.Raw)
	if err != nil {
		return false
	}
	a, b := *before, *now
	a.Labels, a.Annotations, a.Generation = nil, nil, 0
	b.Labels, b.Annotations, b.Generation = nil, nil, 0
	x, err1 := a.JSON()
	y, err2 := b.JSON()
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
