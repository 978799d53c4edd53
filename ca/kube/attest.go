package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seinemesh/seine/ca"
)

// ErrPod refuses a token that is good, but whose pod is not (any more) what it says.
var ErrPod = errors.New("kube: the token's pod is not there")

// What the API server adds to a user whose token is bound to a pod
// (k8s.io/apiserver/pkg/authentication/serviceaccount).
const (
	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name" // Kubernetes ≥ 1.30
)

const maxToken = 16 << 10

// Attestor finds out whose token it is. Safe for concurrent use.
type Attestor struct {
	Client kubernetes.Interface
	Now    func() time.Time // nil: time.Now
}

// Attest returns the pod that a bound service-account token of our audience was made
// for. Errors: ca.ErrToken (no such token), ca.ErrTokenExpired, ErrPod (the pod is
// gone, another one, or runs as somebody else), ca.ErrUnavailable (the API server
// did not say). None of them shows the token.
func (a *Attestor) Attest(ctx context.Context, token string) (ca.Claims, error) {
	now := time.Now
	if a.Now != nil {
		now = a.Now
	}
	if err := plausible(token, now()); err != nil {
		return ca.Claims{}, err
	}
	review, err := a.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return ca.Claims{}, fmt.Errorf("%w: TokenReview: %w", ca.ErrUnavailable, err)
	}
	who, err := read(&review.Status)
	if err != nil {
		return ca.Claims{}, err
	}
	// The API server looked whether the pod is there; look again at what it does not
	// compare, and at this moment's pod rather than a cache's.
	pod, err := a.Client.CoreV1().Pods(who.namespace).Get(ctx, who.pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return ca.Claims{}, fmt.Errorf("%w: %s/%s", ErrPod, who.namespace, who.pod)
	case err != nil:
		return ca.Claims{}, fmt.Errorf("%w: pod %s/%s: %w", ca.ErrUnavailable, who.namespace, who.pod, err)
	}
	if err := who.is(pod); err != nil {
		return ca.Claims{}, err
	}
	return ca.Claims{Namespace: who.namespace, ServiceAccount: who.account, Workload: who.pod}, nil
}

// bearer is what the API server said of a token.
type bearer struct{ namespace, account, pod, uid, node string }

// read takes a TokenReview's verdict apart; anything that is not a pod's own token of
// our audience is refused.
func read(s *authenticationv1.TokenReviewStatus) (bearer, error) {
	switch {
	case s.Error != "" && !s.Authenticated:
		return bearer{}, fmt.Errorf("%w: the API server says: %.300q", ca.ErrToken, s.Error)
	case !s.Authenticated:
		return bearer{}, fmt.Errorf("%w: the API server does not know it", ca.ErrToken)
	case !slices.Contains(s.Audiences, Audience):
		// An authenticator that knows no audiences returns none: its tokens may be meant
		// for anybody.
		return bearer{}, fmt.Errorf("%w: it is not for audience %s", ca.ErrToken, Audience)
	}
	rest, ok := strings.CutPrefix(s.User.Username, "system:serviceaccount:")
	namespace, account, two := strings.Cut(rest, ":")
	if !ok || !two || namespace == "" || account == "" || strings.Contains(account, ":") {
		return bearer{}, fmt.Errorf("%w: %.200q is no service account", ca.ErrToken, s.User.Username)
	}
	b := bearer{namespace: namespace, account: account}
	for _, x := range []struct {
		key  string
		to   *string
		need bool
	}{{extraPodName, &b.pod, true}, {extraPodUID, &b.uid, true}, {extraNodeName, &b.node, false}} {
		values := s.User.Extra[x.key]
		switch {
		case len(values) == 1 && values[0] != "":
			*x.to = values[0]
		case len(values) > 0 || x.need:
			return bearer{}, fmt.Errorf("%w: service account %s/%s: it is not bound to a pod (%s has %d values): mount it by a projected volume",
				ca.ErrToken, namespace, account, x.key, len(values))
		}
	}
	return b, nil
}

// is checks that pod is the one that the token was made for, and may run.
func (b *bearer) is(pod *corev1.Pod) error {
	no := func(what, is, want string) error {
		return fmt.Errorf("%w: %s/%s: its %s is %.100q, the token says %.100q", ErrPod, b.namespace, b.pod, what, is, want)
	}
	switch {
	case string(pod.UID) != b.uid:
		return no("uid", string(pod.UID), b.uid)
	case pod.Spec.ServiceAccountName != b.account:
		return no("service account", pod.Spec.ServiceAccountName, b.account)
	case pod.Spec.NodeName == "":
		return fmt.Errorf("%w: %s/%s is on no node yet, so nothing of it can run", ErrPod, b.namespace, b.pod)
	case b.node != "" && pod.Spec.NodeName != b.node:
		return no("node", pod.Spec.NodeName, b.node)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return fmt.Errorf("%w: %s/%s has ended (%s)", ErrPod, b.namespace, b.pod, pod.Status.Phase)
	}
	return nil
}

// plausible refuses at once what the API server would refuse too: it keeps noise
// away from it. Nothing that it reads is believed.
func plausible(token string, now time.Time) error {
	if len(token) > maxToken {
		return fmt.Errorf("%w: longer than %d bytes", ca.ErrToken, maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return fmt.Errorf("%w: it is no JWT", ca.ErrToken)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return fmt.Errorf("%w: it is no JWT", ca.ErrToken)
	}
	var claims struct {
		Audience audiences `json:"aud"`
		Expires  float64   `json:"exp"`
	}
	if err := json.Unmarshal(body, &claims); err != nil {
		return fmt.Errorf("%w: it is no JWT", ca.ErrToken)
	}
	if !slices.Contains(claims.Audience, Audience) {
		return fmt.Errorf("%w: it is not for audience %s", ca.ErrToken, Audience)
	}
	// A minute of grace: the two clocks may differ, and the API server decides.
	if claims.Expires > 0 && now.Add(-time.Minute).After(time.Unix(int64(claims.Expires), 0)) {
		return ca.ErrTokenExpired
	}
	return nil
}

// audiences is a JWT's aud: a string or several (RFC 7519 §4.1.3).
type audiences []string

func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}
