package config

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

const retryRoute = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - route: [{destination: {host: a}}]
    timeout: 2s
    retries: `

func TestRetries(t *testing.T) {
	for _, c := range []struct {
		yaml string
		want *seinev1.Retry
		says string // a finding
	}{
		{"{attempts: 3}", &seinev1.Retry{Attempts: 3}, ""},
		{"{attempts: 0}", &seinev1.Retry{}, ""},
		{"{}", &seinev1.Retry{}, ""},
		{"{attempts: 2, perTryTimeout: 1500ms, backoff: 100ms, retryOn: ' 5xx, reset,503,,unavailable ', retryIgnorePreviousHosts: false, retryRemoteLocalities: true}",
			&seinev1.Retry{Attempts: 2, PerTryTimeout: durationpb.New(1500 * time.Millisecond), Backoff: durationpb.New(100 * time.Millisecond), On: []string{"5xx", "reset", "503", "unavailable"}, AnyHost: true, RemoteLocalities: true}, ""},
		{"{attempts: 1, retryIgnorePreviousHosts: true}", &seinev1.Retry{Attempts: 1, OtherHost: true}, ""},
		{"{attempts: 1, perTryTimeout: 2s}", &seinev1.Retry{Attempts: 1, PerTryTimeout: durationpb.New(2 * time.Second)}, "has no effect"},
		{"{attempts: 11}", &seinev1.Retry{Attempts: 11}, "11 attempts are many"},
		{"{attempts: 1, retryOn: retriable-headers}", &seinev1.Retry{Attempts: 1, On: []string{"retriable-headers"}}, "cannot say which"},
		{"{attempts: -1}", nil, "must not be negative"},
		{"{attempts: 1, retryOn: '5XX'}", nil, "neither a condition nor a status code"},
		{"{attempts: 1, retryOn: '5xx,99'}", nil, "neither a condition nor a status code"},
		{"{attempts: 1, perTryTimeout: 1us}", nil, "at least 1ms"},
		{"{attempts: 1, backoff: 0s}", nil, "at least 1ms"},
		{"{retryOn: 5xx}", nil, "turns retries off"},
		{"{attempts: 0, perTryTimeout: 1s}", nil, "turns retries off"},
	} {
		r := Build([]File{{"a.yaml", []byte(retryRoute + c.yaml + "\n")}}, Options{})
		var got *seinev1.Retry
		for _, vs := range r.Snapshot.VirtualServices {
			got = vs.HTTP[0].Retry
			if len(vs.HTTP[0].Unsupported) > 0 {
				t.Errorf("%s: unsupported %v", c.yaml, vs.HTTP[0].Unsupported)
			}
		}
		if !proto.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.yaml, got, c.want)
		}
		said := ""
		for _, f := range r.Findings {
			if strings.Contains(f.Path, "retries") {
				said += f.Message + "\n"
			}
		}
		if c.says == "" && said != "" || !strings.Contains(said, c.says) {
			t.Errorf("%s: %q, want %q", c.yaml, said, c.says)
		}
	}
}

func TestDefaultRetryPolicy(t *testing.T) {
	for mc, want := range map[string]*seinev1.Retry{
		"trustDomain: a":                                          nil,
		"defaultHttpRetryPolicy: {attempts: 0}":                   {},
		"defaultHttpRetryPolicy: {attempts: 5, retryOn: \"5xx\"}": {Attempts: 5, On: []string{"5xx"}},
	} {
		r := Build(nil, Options{MeshConfig: &File{"mc", []byte(mc)}})
		if got := r.Snapshot.DefaultRetry; !proto.Equal(got, want) || len(r.Findings) > 0 {
			t.Errorf("%s: %v %v", mc, got, r.Findings)
		}
	}
}

// TestHedging: an annotation has the routes with a perTryTimeout hedge.
func TestHedging(t *testing.T) {
	for _, c := range []struct {
		annotation, retries, says string
		hedge                     bool
	}{
		{`"true"`, "{attempts: 1, perTryTimeout: 1s}", "", true},
		{`"false"`, "{attempts: 1, perTryTimeout: 1s}", "", false},
		{`"true"`, "{attempts: 1}", "has no effect here", false},
		{`"true"`, "{attempts: 0}", "", false},
		{`"yes"`, "{attempts: 1, perTryTimeout: 1s}", "write true or false", false},
	} {
		text := strings.Replace(retryRoute, "{name: a}", "{name: a, annotations: {"+AnnotationHedge+": "+c.annotation+"}}", 1) + c.retries + "\n"
		r := Build([]File{{"a.yaml", []byte(text)}}, Options{})
		hedge := false
		for _, vs := range r.Snapshot.VirtualServices {
			hedge = vs.HTTP[0].Retry.Hedge
		}
		said := ""
		for _, f := range r.Findings {
			said += f.Message
		}
		if hedge != c.hedge || !strings.Contains(said, c.says) {
			t.Errorf("%s %s: %v, %q", c.annotation, c.retries, hedge, said)
		}
	}
}
