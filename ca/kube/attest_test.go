package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/seinemesh/seine/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// jwt is a token as far as anybody but the API server looks at it.
func jwt(audience any, expires time.Time) string {
	body, _ := json.Marshal(map[string]any{"aud": audience, "exp": expires.Unix()})
	return "e30." + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
}

func aPod(edit func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1", UID: types.UID("uid-1")},
		Spec:       corev1.PodSpec{ServiceAccountName: "cart", NodeName: "node-1"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if edit != nil {
		edit(p)
	}
	return p
}

func aReview(edit func(*authenticationv1.TokenReviewStatus)) *authenticationv1.TokenReviewStatus {
	s := &authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: []string{Audience},
		User: authenticationv1.UserInfo{Username: "system:serviceaccount:shop:cart", Extra: map[string]authenticationv1.ExtraValue{
			extraPodName: {"cart-1"}, extraPodUID: {"uid-1"}, extraNodeName: {"node-1"},
		}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func TestAttest(t *testing.T) {
	now := time.Now()
	good := jwt([]string{"other", Audience}, now.Add(time.Hour))
	status := func(f func(*authenticationv1.TokenReviewStatus)) *authenticationv1.TokenReviewStatus {
		return aReview(f)
	}
	extra := func(key string, values ...string) *authenticationv1.TokenReviewStatus {
		return aReview(func(s *authenticationv1.TokenReviewStatus) { s.User.Extra[key] = values })
	}
	user := func(name string) *authenticationv1.TokenReviewStatus {
		return aReview(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = name })
	}
	for name, tc := range map[string]struct {
		token  string
		review *authenticationv1.TokenReviewStatus
		fails  bool // the API server does
		pod    *corev1.Pod
		want   error
		unread bool // the API server is not asked
	}{
		"good":                   {token: good, review: aReview(nil), pod: aPod(nil)},
		"one audience":           {token: jwt(Audience, now.Add(time.Hour)), review: aReview(nil), pod: aPod(nil)},
		"no node in the token":   {token: good, review: extra(extraNodeName), pod: aPod(nil)},
		"not known":              {token: good, review: &authenticationv1.TokenReviewStatus{}, pod: aPod(nil), want: ca.ErrToken},
		"an error":               {token: good, review: &authenticationv1.TokenReviewStatus{Error: "token expired"}, pod: aPod(nil), want: ca.ErrToken},
		"no audience confirmed":  {token: good, review: status(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }), pod: aPod(nil), want: ca.ErrToken},
		"another audience":       {token: good, review: status(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"x"} }), pod: aPod(nil), want: ca.ErrToken},
		"a person":               {token: good, review: user("alice"), pod: aPod(nil), want: ca.ErrToken},
		"a node":                 {token: good, review: user("system:node:node-1"), pod: aPod(nil), want: ca.ErrToken},
		"a name with a colon":    {token: good, review: user("system:serviceaccount:shop:cart:x"), pod: aPod(nil), want: ca.ErrToken},
		"no account":             {token: good, review: user("system:serviceaccount:shop:"), pod: aPod(nil), want: ca.ErrToken},
		"not bound":              {token: good, review: status(func(s *authenticationv1.TokenReviewStatus) { s.User.Extra = nil }), pod: aPod(nil), want: ca.ErrToken},
		"two pods":               {token: good, review: extra(extraPodName, "a", "b"), pod: aPod(nil), want: ca.ErrToken},
		"no uid":                 {token: good, review: extra(extraPodUID), pod: aPod(nil), want: ca.ErrToken},
		"two nodes":              {token: good, review: extra(extraNodeName, "a", "b"), pod: aPod(nil), want: ca.ErrToken},
		"the pod is gone":        {token: good, review: aReview(nil), want: ErrPod},
		"a successor's name":     {token: good, review: aReview(nil), pod: aPod(func(p *corev1.Pod) { p.UID = "uid-2" }), want: ErrPod},
		"another account":        {token: good, review: aReview(nil), pod: aPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "admin" }), want: ErrPod},
		"another namespace":      {token: good, review: user("system:serviceaccount:bank:cart"), pod: aPod(nil), want: ErrPod},
		"another node":           {token: good, review: aReview(nil), pod: aPod(func(p *corev1.Pod) { p.Spec.NodeName = "node-2" }), want: ErrPod},
		"on no node":             {token: good, review: extra(extraNodeName), pod: aPod(func(p *corev1.Pod) { p.Spec.NodeName = "" }), want: ErrPod},
		"ended":                  {token: good, review: aReview(nil), pod: aPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), want: ErrPod},
		"the API server is away": {token: good, fails: true, pod: aPod(nil), want: ca.ErrUnavailable},
		"not a JWT":              {token: "hello", pod: aPod(nil), want: ca.ErrToken, unread: true},
		"not a JWT inside":       {token: "a.!.c", pod: aPod(nil), want: ca.ErrToken, unread: true},
		"for the API":            {token: jwt("https://kubernetes.default.svc", now.Add(time.Hour)), pod: aPod(nil), want: ca.ErrToken, unread: true},
		"without audience":       {token: jwt(nil, now.Add(time.Hour)), pod: aPod(nil), want: ca.ErrToken, unread: true},
		"expired":                {token: jwt(Audience, now.Add(-time.Hour)), pod: aPod(nil), want: ca.ErrTokenExpired, unread: true},
		"expired a moment ago":   {token: jwt(Audience, now.Add(-30*time.Second)), review: &authenticationv1.TokenReviewStatus{}, pod: aPod(nil), want: ca.ErrToken},
		"enormous":               {token: strings.Repeat("a", 1<<20), pod: aPod(nil), want: ca.ErrToken, unread: true},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			if tc.pod != nil {
				if err := client.Tracker().Add(tc.pod); err != nil {
					t.Fatal(err)
				}
			}
			asked := 0
			client.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
				asked++
				r := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
				if len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != Audience || r.Spec.Token != tc.token {
					t.Errorf("asked for %v", r.Spec.Audiences)
				}
				if tc.fails {
					return true, nil, errors.New("connection refused")
				}
				return true, &authenticationv1.TokenReview{Status: *tc.review}, nil
			})
			got, err := (&Attestor{Client: client, Now: func() time.Time { return now }}).Attest(context.Background(), tc.token)
			if tc.want == nil {
				if want := (ca.Claims{Namespace: "shop", ServiceAccount: "cart", Workload: "cart-1"}); err != nil || got != want {
					t.Errorf("%+v, %v", got, err)
				}
			} else if !errors.Is(err, tc.want) || got != (ca.Claims{}) {
				t.Errorf("%+v, %v; want %v", got, err, tc.want)
			}
			if (asked == 0) != tc.unread {
				t.Errorf("the API server was asked %d times", asked)
			}
			if err != nil && strings.Contains(err.Error(), tc.token) {
				t.Error("the error shows the token")
			}
		})
	}
}

func FuzzPlausible(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	f.Add(jwt(Audience, now))
	f.Add(jwt([]string{"a", Audience}, now.Add(-time.Hour)))
	f.Add("a.e30.b")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if err := plausible(token, now); err == nil && strings.Count(token, ".") != 2 {
			t.Errorf("%q passed", token)
		}
	})
}
