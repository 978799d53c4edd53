package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/ca/rotation"
)

// annotationRotation is where the Secret says how far a rotation is, so that any
// replica can go on with it.
const annotationRotation = "seine.dev/ca-rotation"

// Record returns r as a rotation sees it.
func (r *Root) Record() *rotation.Record {
	return &rotation.Record{Material: r.Material, Next: r.Next, State: r.State, Version: r.Version}
}

// Records is the Secret as a rotation.Store.
type Records struct{ Roots *Roots }

// Load returns the root of this moment.
func (s Records) Load(ctx context.Context) (*rotation.Record, error) {
	root, err := s.Roots.Load(ctx)
	if err != nil {
		return nil, err
	}
	return root.Record(), nil
}

// Save writes the Secret, unless it has changed since r was loaded.
func (s Records) Save(ctx context.Context, r *rotation.Record) error {
	state, err := json.Marshal(r.State)
	if err != nil {
		return fmt.Errorf("kube: rotation: %w", err)
	}
	api := s.Roots.Client.CoreV1().Secrets(s.Roots.Namespace)
	old, err := api.Get(ctx, SecretGenerated, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("kube: Secret %s/%s: %w", s.Roots.Namespace, SecretGenerated, err)
	}
	if old.ResourceVersion != r.Version {
		return rotation.ErrConflict
	}
	next := old.DeepCopy() // with the version that the API server compares again
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[annotationRotation] = string(state)
	next.Type = corev1.SecretTypeOpaque
	next.Data = map[string][]byte{ca.FileRoot: r.Material.Roots, ca.FileCert: r.Material.Cert, ca.FileKey: r.Material.Key}
	if len(r.Material.Chain) > 0 {
		next.Data[ca.FileChain] = r.Material.Chain
	}
	if r.Next != nil {
		next.Data[keyNextRoot], next.Data[keyNextCert], next.Data[keyNextKey] = r.Next.Roots, r.Next.Cert, r.Next.Key
		if len(r.Next.Chain) > 0 {
			next.Data[keyNextChain] = r.Next.Chain
		}
	}
	_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return rotation.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("kube: write Secret %s/%s: %w", s.Roots.Namespace, SecretGenerated, err)
	}
	return nil
}
