package kube

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/seinemesh/seine/ca/rotation"
)

// ErrSecret refuses a Secret that holds no authority.
var ErrSecret = errors.New("kube: Secret without a certificate authority")

// Root is the authority that the cluster holds.
type Root struct {
	Material ca.Material
	Source   string         // "Secret seine-system/cacerts": where somebody changes it
	Version  string         // resourceVersion of the Secret that it was read from
	State    rotation.State // how far a rotation is
	// Next is the root that a rotation brings in and that does not sign yet.
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

// Load returns the root of this moment, of the Secret that is written here. Errors
// wrap ErrNone where there is none, ErrSecret where it is broken.
func (r *Roots) Load(ctx context.Context) (*Root, error) {
	s, err := r.Client.CoreV1().Secrets(r.Namespace).Get(ctx, SecretGenerated, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w in namespace %s", ErrNone, r.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("kube: Secret %s/%s: %w", r.Namespace, SecretGenerated, err)
	}
	return parse(s)
}

// Brought returns the authority that somebody else keeps for this mesh, nil if nobody
// does. Errors wrap ErrSecret where what is there is none.
func (r *Roots) Brought(ctx context.Context) (*ca.Material, error) {
	s, err := r.Client.CoreV1().Secrets(r.Namespace).Get(ctx, SecretBrought, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("kube: Secret %s/%s: %w", r.Namespace, SecretBrought, err)
	}
	return authority(s)
}

// ErrNone says that there is no root yet.
var ErrNone = errors.New("kube: there is no Secret " + SecretGenerated)

// Make keeps a root in a new Secret, unless there is one: a copy of what was brought,
// or one that it makes. Of several that try, the API server lets one through, and all
// load that one's.
func (r *Roots) Make(ctx context.Context) error {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	m, err := r.Brought(ctx)
	if err != nil {
		return err
	}
	state := rotation.State{Brought: m != nil}
	if m == nil {
		if m, err = ca.Generate(r.TrustDomain, 0, now()); err != nil {
			return err
		}
	}
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("kube: rotation: %w", err)
	}
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: SecretGenerated, Namespace: r.Namespace, Labels: map[string]string{managedBy: managedByUs},
			Annotations: map[string]string{annotationRotation: string(text)},
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{ca.FileRoot: m.Roots, ca.FileCert: m.Cert, ca.FileKey: m.Key},
	}
	if len(m.Chain) > 0 {
		s.Data[ca.FileChain] = m.Chain
	}
	_, err = r.Client.CoreV1().Secrets(r.Namespace).Create(ctx, s, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("kube: make Secret %s/%s: %w", r.Namespace, SecretGenerated, err)
	}
	return nil
}

// Keys of the Secret during a rotation.
const (
	keyNextRoot  = "next-root-cert.pem"
	keyNextCert  = "next-ca-cert.pem"
	keyNextKey   = "next-ca-key.pem"
	keyNextChain = "next-cert-chain.pem"
)

// parse reads the Secret that is written here.
func parse(s *corev1.Secret) (*Root, error) {
	m, err := authority(s)
	if err != nil {
		return nil, err
	}
	r := &Root{Material: *m, Source: "Secret " + s.Namespace + "/" + s.Name, Version: s.ResourceVersion}
	if text := s.Annotations[annotationRotation]; text != "" {
		if err := json.Unmarshal([]byte(text), &r.State); err != nil {
			return nil, fmt.Errorf("%w: annotation %s of %s: %w", rotation.ErrRecord, annotationRotation, r.Source, err)
		}
	}
	if r.State.Brought {
		r.Source = "Secret " + s.Namespace + "/" + SecretBrought
	}
	if d := s.Data; len(d[keyNextCert]) > 0 {
		r.Next = &ca.Material{Roots: d[keyNextRoot], Cert: d[keyNextCert], Key: d[keyNextKey], Chain: d[keyNextChain]}
		if len(r.Next.Roots) == 0 { // written before a root could be brought: it is its own
			r.Next.Roots = r.Next.Cert
		}
	}
	return r, nil
}

// authority reads one in Istio's layout or cert-manager's.
func authority(s *corev1.Secret) (*ca.Material, error) {
	m := &ca.Material{}
	d := s.Data
	switch {
	case len(d[ca.FileCert]) > 0:
		*m = ca.Material{Roots: d[ca.FileRoot], Cert: d[ca.FileCert], Key: d[ca.FileKey], Chain: d[ca.FileChain]}
	case len(d[corev1.TLSCertKey]) > 0:
		// cert-manager: tls.crt is the chain from what signs on, ca.crt the root.
		*m = ca.Material{Roots: d["ca.crt"], Cert: d[corev1.TLSCertKey], Key: d[corev1.TLSPrivateKeyKey]}
	}
	for _, need := range []struct {
		what string
		data []byte
	}{{ca.FileCert + " or " + corev1.TLSCertKey, m.Cert}, {ca.FileRoot + " or ca.crt", m.Roots}, {ca.FileKey + " or " + corev1.TLSPrivateKeyKey, m.Key}} {
		if len(bytes.TrimSpace(need.data)) == 0 {
			return nil, fmt.Errorf("%w: Secret %s/%s has no %s: complete it, or delete it and seined makes or reads another", ErrSecret, s.Namespace, s.Name, need.what)
		}
	}
	return m, nil
}

// Watch calls take with the root now, after each change of it and whenever something
// may have been brought, until ctx ends. What cannot be read is logged and changes
// nothing: what was taken before stays, also when a Secret vanishes. It watches, and looks again all the while besides: an event
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
	for told := true; ; {
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
			if told || root.Version != last {
				last = root.Version
				take(root)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			told = false
		case <-changed:
			told = true
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
