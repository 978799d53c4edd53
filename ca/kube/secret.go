package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/seinemesh/seine/ca"
)

// ErrSecret refuses a Secret that holds no authority.
var ErrSecret = errors.New("kube: Secret without a certificate authority")

// Root is the authority that the cluster holds.
type Root struct {
	Material ca.Material
	Source   string // "Secret seine-system/cacerts"
	Brought  bool   // by somebody else; never written
	Version  string // resourceVersion of the Secret
	// Annotations of the Secret; a rotation's state is in one of them.
	Annotations map[string]string
	// Next is the root that a rotation has made and that does not sign yet.
	Next *ca.Material
}

// Roots reads, makes and watches the root.
type Roots struct {
	Client      kubernetes.Interface
	Namespace   string
	TrustDomain string
	Now         func() time.Time // nil: time.Now
	Log         *slog.Logger     // nil: discards
	// Again is how often the Secrets are read although no change was reported; 0: a minute.
	Again time.Duration
}

// Load returns the root of this moment: the brought one if there is one. Errors wrap
// ErrNone where there is neither, ErrSecret where one is broken.
func (r *Roots) Load(ctx context.Context) (*Root, error) {
	for _, name := range []string{SecretBrought, SecretGenerated} {
		s, err := r.Client.CoreV1().Secrets(r.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kube: Secret %s/%s: %w", r.Namespace, name, err)
		}
		return parse(s)
	}
	return nil, fmt.Errorf("%w in namespace %s", ErrNone, r.Namespace)
}

// ErrNone says that the cluster holds no root yet.
var ErrNone = errors.New("kube: there is neither a Secret " + SecretBrought + " nor " + SecretGenerated)

// Make makes a root and keeps it in a new Secret, unless there is one: of several
// that try, the API server lets one through, and all load that one's.
func (r *Roots) Make(ctx context.Context) error {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	m, err := ca.Generate(r.TrustDomain, 0, now())
	if err != nil {
		return err
	}
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretGenerated, Namespace: r.Namespace, Labels: map[string]string{managedBy: managedByUs}},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{ca.FileRoot: m.Roots, ca.FileCert: m.Cert, ca.FileKey: m.Key},
	}
	_, err = r.Client.CoreV1().Secrets(r.Namespace).Create(ctx, s, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("kube: make Secret %s/%s: %w", r.Namespace, SecretGenerated, err)
	}
	return nil
}

// Keys of the Secret during a rotation.
const (
	keyNextCert = "next-ca-cert.pem"
	keyNextKey  = "next-ca-key.pem"
)

// parse reads a Secret in Istio's layout or cert-manager's.
func parse(s *corev1.Secret) (*Root, error) {
	r := &Root{
		Source: "Secret " + s.Namespace + "/" + s.Name, Brought: s.Name != SecretGenerated,
		Version: s.ResourceVersion, Annotations: s.Annotations,
	}
	d := s.Data
	switch {
	case len(d[ca.FileCert]) > 0:
		r.Material = ca.Material{Roots: d[ca.FileRoot], Cert: d[ca.FileCert], Key: d[ca.FileKey], Chain: d[ca.FileChain]}
	case len(d[corev1.TLSCertKey]) > 0:
		// cert-manager: tls.crt is the chain from what signs on, ca.crt the root.
		r.Material = ca.Material{Roots: d["ca.crt"], Cert: d[corev1.TLSCertKey], Key: d[corev1.TLSPrivateKeyKey]}
	}
	m := &r.Material
	for _, need := range []struct {
		what string
		data []byte
	}{{ca.FileCert + " or " + corev1.TLSCertKey, m.Cert}, {ca.FileRoot + " or ca.crt", m.Roots}, {ca.FileKey + " or " + corev1.TLSPrivateKeyKey, m.Key}} {
		if len(bytes.TrimSpace(need.data)) == 0 {
			return nil, fmt.Errorf("%w: %s has no %s: complete it, or delete it and seined makes or reads another", ErrSecret, r.Source, need.what)
		}
	}
	if len(d[keyNextCert]) > 0 && !r.Brought {
		r.Next = &ca.Material{Roots: d[keyNextCert], Cert: d[keyNextCert], Key: d[keyNextKey]}
	}
	return r, nil
}

// Watch calls take with the root now and after each change, until ctx ends. What
// cannot be read is logged and changes nothing: what was taken before stays, also
// when a Secret vanishes. It watches, and looks again all the while besides: an event
// that was missed once must not end in an expired root.
func (r *Roots) Watch(ctx context.Context, take func(*Root)) error {
	log := r.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	again := r.Again
	if again <= 0 {
		again = time.Minute
	}
	changed := make(chan struct{}, 1)
	done := make(chan struct{}, 2)
	for _, name := range []string{SecretBrought, SecretGenerated} {
		go func() { r.follow(ctx, name, changed, again); done <- struct{}{} }()
	}
	defer func() { <-done; <-done }()
	tick := time.NewTicker(again)
	defer tick.Stop()
	last, said := "", ""
	for {
		root, err := r.Load(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if said != err.Error() {
				said = err.Error()
				log.Error("the certificate authority's Secret cannot be taken; what was taken before goes on", "err", err)
			}
		default:
			said = ""
			if v := root.Source + " " + root.Version; v != last {
				last = v
				take(root)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		}
	}
}

// follow tells of each event of one Secret.
func (r *Roots) follow(ctx context.Context, name string, changed chan<- struct{}, again time.Duration) {
	for ctx.Err() == nil {
		w, err := r.Client.CoreV1().Secrets(r.Namespace).Watch(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(),
		})
		if err != nil {
			// Looking again meanwhile is Watch's.
			wait := time.NewTimer(min(again, 5*time.Second))
			select {
			case <-ctx.Done():
			case <-wait.C:
			}
			wait.Stop()
			continue
		}
		tell(changed) // whatever happened before the watch began
		for open := true; open; {
			select {
			case e, ok := <-w.ResultChan():
				if open = ok && e.Type != watch.Error; open {
					tell(changed)
				}
			case <-ctx.Done():
				open = false
			}
		}
		w.Stop()
	}
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
