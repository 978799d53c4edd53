package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seinemesh/seine/ca/rotation"
)

const (
	annotationReport = "seine.dev/ca-report"
	labelReport      = "seine.dev/ca-report"
	// reportLife is how long a replica that reports no more is counted.
	reportLife = 30 * time.Second
)

// Reports are what replicas tell each other of their proxies: a Lease for each, which
// a replica that died stops renewing.
type Reports struct {
	Client    kubernetes.Interface
	Namespace string
	Replica   string // this one's name
}

func (r *Reports) name() string { return "seine-ca-" + strings.ToLower(r.Replica) }

// Write makes report this replica's, and lets it count for some time.
func (r *Reports) Write(ctx context.Context, report rotation.Report, now time.Time) error {
	text, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("kube: report: %w", err)
	}
	at := metav1.NewMicroTime(now)
	seconds := int32(reportLife / time.Second)
	api := r.Client.CoordinationV1().Leases(r.Namespace)
	next := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.name(), Namespace: r.Namespace,
			Labels:      map[string]string{labelReport: "true", managedBy: managedByUs, "app.kubernetes.io/name": "seined"},
			Annotations: map[string]string{annotationReport: string(text)},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &r.Replica, RenewTime: &at, LeaseDurationSeconds: &seconds},
	}
	old, err := api.Get(ctx, next.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, next, metav1.CreateOptions{})
	} else if err == nil {
		next.ResourceVersion = old.ResourceVersion // a Lease is not updated without
		_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("kube: report in Lease %s/%s: %w", r.Namespace, next.Name, err)
	}
	return nil
}

// Remove takes this replica's report back: it ends.
func (r *Reports) Remove(ctx context.Context) error {
	err := r.Client.CoordinationV1().Leases(r.Namespace).Delete(ctx, r.name(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("kube: remove Lease %s/%s: %w", r.Namespace, r.name(), err)
	}
	return nil
}

// Read returns the reports that count, and removes what dead replicas left long ago.
func (r *Reports) Read(ctx context.Context, now time.Time) ([]rotation.Report, error) {
	list, err := r.Client.CoordinationV1().Leases(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelReport})
	if err != nil {
		return nil, fmt.Errorf("kube: reports of replicas: %w", err)
	}
	var out []rotation.Report
	for i := range list.Items {
		l := &list.Items[i]
		if l.Labels[labelReport] == "" || l.Spec.RenewTime == nil {
			continue
		}
		if old := now.Sub(l.Spec.RenewTime.Time); old > reportLife {
			if old > time.Hour {
				_ = r.Client.CoordinationV1().Leases(r.Namespace).Delete(ctx, l.Name, metav1.DeleteOptions{}) // another time, then
			}
			continue
		}
		var report rotation.Report
		if err := json.Unmarshal([]byte(l.Annotations[annotationReport]), &report); err != nil {
			return nil, fmt.Errorf("kube: report in Lease %s/%s: %w: delete it", l.Namespace, l.Name, err)
		}
		out = append(out, report)
	}
	return out, nil
}
