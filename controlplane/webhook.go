package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// DefaultWebhook is where the API server's questions are answered.
const DefaultWebhook = "0.0.0.0:15017"

// The configurations by which an API server knows this server, of the default
// revision.
const (
	injectorName  = "seine-injector"
	validatorName = "seine-validator"
)

// webhook starts what the API server asks: /inject, and /validate where resources
// are the cluster's.
func (s *server) webhook(ctx context.Context, g *errgroup.Group) error {
	c := s.opt.Cluster
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.Client.CoreV1().Events("")})
	context.AfterFunc(ctx, broadcaster.Shutdown)
	events := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "seined"})
	injection, in, mux := newInjection(s), newReviews(), http.NewServeMux()
	mux.Handle("POST /inject", in.handler(maxReview, injection.answer))
	if s.cluster != nil {
		mux.Handle("POST /validate", validation(in, s.cluster.Check))
	}
	conf, err := s.webhookTLS()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.opt.Webhook)
	if err != nil {
		return fmt.Errorf("seined: --webhook %s: %w: choose another port or end what holds this one", s.opt.Webhook, err)
	}
	s.serveHTTP(ctx, g, tls.NewListener(s.bounded(l, "webhook", webhookConnections), conf), mux)
	g.Go(func() error { return injection.run(ctx) })
	g.Go(func() error {
		return s.lead.while(ctx, "looking after sidecars", func(ctx context.Context) error {
			return newSidecars(s, events, injection).run(ctx)
		})
	})
	look := make(chan struct{}, 1)
	again := func() {
		select {
		case look <- struct{}{}:
		default:
		}
	}
	s.authority.Notify(again)
	g.Go(func() error {
		return s.lead.while(ctx, "keeping the webhooks' certificates", func(ctx context.Context) error { return s.keepCABundles(ctx, look, again) })
	})
	return nil
}

// webhookTLS serves with the certificate of the moment, so that it rotates
// without a connection being lost. An API server shows a certificate of its own only
// if its administrator says so; with WebhookClientCA nobody else is answered.
func (s *server) webhookTLS() (*tls.Config, error) {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := s.source.Current(); c != nil {
				return c, nil
			}
			return nil, fmt.Errorf("no certificate yet")
		},
	}
	if path := s.opt.WebhookClientCA; path != "" {
		roots, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("seined: --webhook-client-ca: %w", err)
		}
		conf.ClientCAs, conf.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !conf.ClientCAs.AppendCertsFromPEM(roots) {
			return nil, fmt.Errorf("seined: --webhook-client-ca %s: there is no certificate in it: it must hold what signed the API server's client certificate, as PEM", path)
		}
	}
	return conf, nil
}

// keepCABundles has the API server know this server by the mesh's roots: it
// writes them into the webhook configurations whenever they, or the
// configurations, change; again makes look receive.
func (s *server) keepCABundles(ctx context.Context, look <-chan struct{}, again func()) error {
	c := s.opt.Cluster
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { again() }, UpdateFunc: func(any, any) { again() }}
	only := func(name string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}))
	}
	mutating := only(injectorName + c.suffix()).Admissionregistration().V1().MutatingWebhookConfigurations().Informer()
	validating := only(validatorName + c.suffix()).Admissionregistration().V1().ValidatingWebhookConfigurations().Informer()
	run, stop := context.WithCancel(ctx)
	g := errgroup.Group{}
	defer func() { stop(); _ = g.Wait() }()
	for _, informer := range []cache.SharedIndexInformer{mutating, validating} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watch the webhook configurations: %w", err)
		}
		g.Go(func() error { informer.RunWithContext(run); return nil })
	}
	for {
		select {
		case <-look:
		case <-ctx.Done():
			return nil
		}
		bundle := s.authority.Bundle()
		for _, o := range append(mutating.GetStore().List(), validating.GetStore().List()...) {
			if err := s.writeCABundle(ctx, o.(runtime.Object), bundle); err != nil {
				return err
			}
		}
	}
}

// writeCABundle changes what differs, and nothing if nothing does.
func (s *server) writeCABundle(ctx context.Context, o runtime.Object, bundle []byte) error {
	type webhook struct {
		name string
		has  []byte
	}
	var name string
	var hooks []webhook
	patch := func([]byte) error { return nil }
	api := s.opt.Cluster.Client.AdmissionregistrationV1()
	switch o := o.(type) {
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		name = o.Name
		for i := range o.Webhooks {
			hooks = append(hooks, webhook{o.Webhooks[i].Name, o.Webhooks[i].ClientConfig.CABundle})
		}
		patch = func(b []byte) error {
			_, err := api.MutatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, b, metav1.PatchOptions{})
			return err
		}
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		name = o.Name
		for i := range o.Webhooks {
			hooks = append(hooks, webhook{o.Webhooks[i].Name, o.Webhooks[i].ClientConfig.CABundle})
		}
		patch = func(b []byte) error {
			_, err := api.ValidatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, b, metav1.PatchOptions{})
			return err
		}
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	var ops []operation
	for i, h := range hooks {
		if bytes.Equal(h.has, bundle) {
			continue
		}
		at := "/webhooks/" + strconv.Itoa(i)
		// The test refuses the patch where somebody has changed the order meanwhile.
		ops = append(ops, operation{"test", at + "/name", h.name}, operation{"add", at + "/clientConfig/caBundle", bundle})
	}
	if len(ops) == 0 {
		return nil
	}
	b, err := json.Marshal(ops)
	if err != nil {
		return fmt.Errorf("webhook configuration %s: %w", name, err)
	}
	if err := patch(b); err != nil {
		return fmt.Errorf("write the roots into webhook configuration %s: %w", name, err)
	}
	s.log.Info("the API server knows this server's webhooks by the mesh's roots", "configuration", name)
	return nil
}
