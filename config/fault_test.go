package config

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

const plainRoute = `
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - route: [{destination: {host: a}}]
    `

// ruleOf is the rule with that line, nil if it is refused; says are its findings.
func ruleOf(t *testing.T, line string) (rule *seinev1.HttpRule, says string) {
	t.Helper()
	r := Build([]File{{"a.yaml", []byte(plainRoute + line + "\n")}}, Options{})
	for _, f := range r.Findings {
		if f.Code != codeNoHost && f.Code != codeRouteNoHost {
			says += f.Path + ": " + f.Message + "\n"
		}
	}
	for _, vs := range r.Snapshot.VirtualServices {
		rule = vs.HTTP[0]
	}
	return rule, says
}

func TestFault(t *testing.T) {
	second := func(share uint32) *seinev1.Fault_Delay {
		return &seinev1.Fault_Delay{PerMillion: share, Fixed: durationpb.New(time.Second)}
	}
	for _, c := range []struct {
		yaml string
		want *seinev1.Fault
		says string
	}{
		{"{delay: {fixedDelay: 1s, percentage: {value: 12.5}}}", &seinev1.Fault{Delay: second(125_000)}, ""},
		{"{delay: {fixedDelay: 1s, percent: 10}}", &seinev1.Fault{Delay: second(100_000)}, ""},
		{"{delay: {fixedDelay: 1s}}", &seinev1.Fault{Delay: second(0)}, "delays no request"},
		{"{abort: {httpStatus: 418, percentage: {value: 0.0001}}}", &seinev1.Fault{Abort: &seinev1.Fault_Abort{HttpStatus: 418, PerMillion: 1}}, ""},
		{"{abort: {httpStatus: 400, percent: 10}}", &seinev1.Fault{Abort: &seinev1.Fault_Abort{HttpStatus: 400, PerMillion: 100_000}}, "has removed"},
		{"{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}", &seinev1.Fault{Abort: &seinev1.Fault_Abort{GrpcStatus: 14, PerMillion: million}}, ""},
		{"{abort: {httpStatus: 500}}", &seinev1.Fault{Abort: &seinev1.Fault_Abort{HttpStatus: 500}}, "aborts no request"},
		{"{abort: {grpcStatus: '14', percentage: {value: 100}}}", nil, "no status of gRPC"},
		{"{abort: {httpStatus: 99, percentage: {value: 100}}}", nil, "between 200 and 599"},
		{"{abort: {http2Error: x, percentage: {value: 100}}}", nil, "httpStatus or grpcStatus"},
		{"{abort: {httpStatus: 500, percentage: {value: 100.5}}}", nil, "between 0 and 100"},
		{"{delay: {percentage: {value: 1}}}", nil, "must say how long"},
		{"{delay: {exponentialDelay: 1s, percentage: {value: 1}}}", nil, "only fixed delays"},
		{"{delay: {fixedDelay: 1us, percentage: {value: 1}}}", nil, "at least 1ms"},
		{"{}", nil, "must have a delay"},
	} {
		rule, says := ruleOf(t, "fault: "+c.yaml)
		if !proto.Equal(rule.GetFault(), c.want) || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %v, want %v; %s", c.yaml, rule.GetFault(), c.want, says)
		}
		if len(rule.GetUnsupported()) > 0 {
			t.Errorf("%s: unsupported %v", c.yaml, rule.Unsupported)
		}
	}
}

func TestCors(t *testing.T) {
	exact := func(s string) *seinev1.StringMatch {
		return &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: s}}
	}
	for _, c := range []struct {
		yaml string
		want *seinev1.Cors
		says string
	}{
		{"{allowOrigins: [{exact: https://a.example}, {prefix: http}, {regex: '.*'}], allowMethods: [GET, POST], allowHeaders: [x-a, X-B], exposeHeaders: [x-c], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}",
			&seinev1.Cors{Origins: []*seinev1.StringMatch{exact("https://a.example"), {Match: &seinev1.StringMatch_Prefix{Prefix: "http"}}, {Match: &seinev1.StringMatch_Regex{Regex: ".*"}}},
				Methods: "GET,POST", Headers: "x-a,X-B", Expose: "x-c", MaxAge: durationpb.New(24 * time.Hour), Credentials: true, AnswerUnmatched: true}, ""},
		{"{allowOrigin: ['*'], unmatchedPreflights: FORWARD}", &seinev1.Cors{Origins: []*seinev1.StringMatch{exact("*")}}, ""},
		{"{allowOrigin: [old], allowOrigins: [{exact: new}]}", &seinev1.Cors{Origins: []*seinev1.StringMatch{exact("new")}}, ""},
		{"{allowMethods: [GET]}", &seinev1.Cors{Methods: "GET"}, "allows no origin"},
		{"{allowOrigins: [{}]}", nil, "exact, prefix or regex"},
		{"{allowOrigins: [{prefix: ''}]}", nil, "must not be empty"},
		{"{allowOrigins: [{exact: a}], allowMethods: [get]}", nil, "is no method"},
		{"{allowOrigins: [{exact: a}], allowHeaders: ['a b']}", nil, "not a header's name"},
		{"{allowOrigins: [{exact: a}], maxAge: 1500ms}", nil, "whole seconds"},
	} {
		rule, says := ruleOf(t, "corsPolicy: "+c.yaml)
		if !proto.Equal(rule.GetCors(), c.want) || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %v, want %v; %s", c.yaml, rule.GetCors(), c.want, says)
		}
	}
}

func TestMirrors(t *testing.T) {
	to := func(host, subset string, share uint32) *seinev1.Mirror {
		return &seinev1.Mirror{Destination: &seinev1.Destination{Host: host + ".default.svc.cluster.local", Subset: subset}, PerMillion: share}
	}
	for _, c := range []struct {
		yaml string
		want []*seinev1.Mirror
		says string
	}{
		{"mirror: {host: b, subset: v2}", []*seinev1.Mirror{to("b", "v2", million)}, ""},
		{"mirror: {host: b}\n    mirrorPercent: 25", []*seinev1.Mirror{to("b", "", 250_000)}, ""},
		{"mirror: {host: b}\n    mirror_percent: 25\n    mirrorPercentage: {value: 0.5}", []*seinev1.Mirror{to("b", "", 5_000)}, ""},
		{"mirrors: [{destination: {host: b}}, {destination: {host: c}, percentage: {value: 10}}]", []*seinev1.Mirror{to("b", "", million), to("c", "", 100_000)}, ""},
		{"mirrors: [{destination: {host: b}}]\n    mirror: {host: c}", nil, "exclude each other"},
		{"mirror: {host: b}\n    mirrorPercent: 101", nil, "between 0 and 100"},
		{"mirrorPercent: 10", nil, "a mirror that is not there"},
		{"mirrors: [{}]", nil, "must have a destination"},
	} {
		rule, says := ruleOf(t, c.yaml)
		same := len(rule.GetMirrors()) == len(c.want)
		for i := 0; same && i < len(c.want); i++ {
			same = proto.Equal(rule.Mirrors[i], c.want[i])
		}
		if !same || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %v, want %v; %s", c.yaml, rule.GetMirrors(), c.want, says)
		}
	}
}
