package inject

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Redirect returns the flags, for capture.ParseFlags, of the redirect that an
// injected pod is to get from outside: not nil, though perhaps empty. It is nil
// for a pod that has no sidecar, and for one that brings its own init container.
func Redirect(pod *corev1.Pod) ([]string, error) {
	if sidecar, _ := own(pod); sidecar == nil || pod.Annotations[AnnotationStatus] == "" {
		return nil, nil
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == InitName {
			return nil, nil
		}
	}
	text, ok := pod.Annotations[AnnotationRedirect]
	if !ok {
		return nil, fmt.Errorf("it has a sidecar, but neither init container %s nor annotation %s: create it anew", InitName, AnnotationRedirect)
	}
	var flags []string
	if err := json.Unmarshal([]byte(text), &flags); err != nil {
		return nil, fmt.Errorf("annotation %s is not a list of flags: %w", AnnotationRedirect, err)
	}
	if flags == nil { // null
		flags = []string{}
	}
	return flags, nil
}
