package controlplane

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/ca/kube"
)

// warnEvery is how often the authority's certificates are looked at.
const warnEvery = time.Hour

// expiryMetrics count the authority's certificates that are near their end.
func (s *server) expiryMetrics() []prometheus.Collector {
	var out []prometheus.Collector
	for _, days := range []int{30, 7, 1, 0} {
		out = append(out, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "seine_ca_expiring_certificates",
			Help:        "Certificates of the authority that end within so many days, and not within the next smaller number; 0: that have ended.",
			ConstLabels: prometheus.Labels{"days": strconv.Itoa(days)},
		}, func() float64 {
			n := 0
			for _, x := range s.expiring(time.Now()) {
				if x.Days == days {
					n++
				}
			}
			return float64(n)
		}))
	}
	return out
}

// keepWarning says of each certificate of the authority that it is near its end, once
// for each of 30, 7 and 1 days before and once after: in the log, and in a cluster as
// an Event of the Secret. The leader does it, each hour and when look receives.
func (s *server) keepWarning(ctx context.Context, look <-chan struct{}) error {
	tick := time.NewTicker(warnEvery)
	defer tick.Stop()
	said := map[string]int{}
	for {
		for _, x := range s.expiring(time.Now()) {
			if days, again := said[x.What]; again && days == x.Days {
				continue
			}
			said[x.What] = x.Days
			s.log.Warn("a certificate of the authority is near its end", "what", x.String())
			if err := s.expiryEvent(ctx, x, time.Now()); err != nil && ctx.Err() == nil {
				s.log.Warn("that could not be made an Event", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look:
		case <-tick.C:
		}
	}
}

// expiryEvent makes an Event, whose name is that of the warning: who leads next does
// not repeat it.
func (s *server) expiryEvent(ctx context.Context, x ca.Expiring, now time.Time) error {
	c := s.opt.Cluster
	if c == nil {
		return nil
	}
	secret := kube.SecretGenerated
	if s.brought() {
		secret = kube.SecretBrought
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(x.What)) // never fails
	at := metav1.NewTime(now)
	_, err := c.Client.CoreV1().Events(c.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("seine-ca-expiry-%x-%d", h.Sum64(), x.Days), Namespace: c.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: c.Namespace, Name: secret},
		Type:           corev1.EventTypeWarning, Reason: "CertificateExpires", Message: x.String(),
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		Source: corev1.EventSource{Component: "seined", Host: c.Pod}, ReportingController: "seine.dev/seined", ReportingInstance: c.Pod,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
