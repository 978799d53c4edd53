package controlplane

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/cluster"
)

// TestExpiryEvent: one Event for a warning, whoever leads.
func TestExpiryEvent(t *testing.T) {
	world, _ := fakeCluster(t)
	m, err := ca.Generate("cluster.local", 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{"seined-1", "seined-2"} {
		c := *world
		c.Pod = pod
		a, err := ca.Open(ca.Options{Material: m, Source: "Secret seine-system/seine-ca", TrustDomain: "cluster.local"})
		if err != nil {
			t.Fatal(err)
		}
		s := &server{opt: Options{Cluster: &c}, log: slog.New(slog.DiscardHandler), authority: a}
		soon := a.NotAfter().Add(-5 * 24 * time.Hour)
		if len(s.expiring(time.Now())) != 0 {
			t.Error("a new root is near its end")
		}
		for _, x := range s.expiring(soon) {
			if err := s.expiryEvent(t.Context(), x, soon); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := world.Client.CoreV1().Events(cluster.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || !strings.Contains(list.Items[0].Message, "run seine ca rotate") || list.Items[0].InvolvedObject.Name != "seine-ca" {
		t.Errorf("%+v", list.Items)
	}
}
