package explain

import (
	"strings"
	"testing"
)

const shaped = `
apiVersion: v1
kind: Service
metadata: {name: billing}
spec: {selector: {app: billing}, ports: [{name: http, port: 8080}]}
---
apiVersion: local.seine.dev/v1
kind: Workload
metadata: {name: v1, labels: {app: billing, version: v1}}
spec: {command: [x], ports: [8080]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: billing}
spec:
  hosts: [billing]
  http:
  - match: [{uri: {prefix: /broken}}]
    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: billing}}]
  - fault: {delay: {fixedDelay: 2s, percentage: {value: 10}}, abort: {httpStatus: 503, percentage: {value: 0.5}}}
    corsPolicy: {allowOrigins: [{exact: https://good.example}], allowMethods: [GET]}
    mirror: {host: billing}
    mirrorPercentage: {value: 25}
    route: [{destination: {host: billing}}]
---
apiVersion: traffic.seine.dev/v1
kind: RateLimit
metadata: {name: billing}
spec:
  selector: {matchLabels: {app: billing}}
  limits:
  - {requests: 10, per: 1m, key: {client: true}}
  - {requests: 1, match: [{uri: {prefix: /other}}]}
`

func TestShaping(t *testing.T) {
	s := built(t, shaped)
	ask := func(q Question) *Answer {
		t.Helper()
		a, err := Explain(s, q)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	const from = "default,app=x"
	a := ask(Question{From: from, URL: "http://billing:8080/"})
	if f := a.Fault; a.Outcome != Forward || f == nil || f.Delay != "2s" || f.DelayPercent != 10 || f.Abort != 503 || f.AbortPercent != 0.5 {
		t.Errorf("%s %+v", a.Outcome, a.Fault)
	}
	if len(a.Mirrors) != 1 || a.Mirrors[0].Percent != 25 || a.Mirrors[0].Port != 8080 || a.Cors == nil || a.Cors.Allowed {
		t.Errorf("%+v %+v", a.Mirrors, a.Cors)
	}
	a = ask(Question{From: from, URL: "http://billing:8080/", Headers: []string{"Origin: https://good.example"}})
	if !a.Cors.Allowed || a.Cors.Headers["access-control-allow-origin"] != "https://good.example" {
		t.Errorf("%+v", a.Cors)
	}
	a = ask(Question{From: from, Method: "OPTIONS", URL: "http://billing:8080/", Headers: []string{"Origin: https://good.example", "Access-Control-Request-Method: PUT"}})
	if a.Outcome != Respond || a.Status != 200 || a.Cors.Headers["access-control-allow-methods"] != "GET" {
		t.Errorf("%s %d %+v", a.Outcome, a.Status, a.Cors)
	}
	a = ask(Question{From: from, URL: "http://billing:8080/broken"})
	if a.Outcome != Reject || a.Reason != Injected || a.Flag != "FI" || a.Fault.GRPCAbort != "UNAVAILABLE" {
		t.Errorf("%s %s %s %+v", a.Outcome, a.Reason, a.Flag, a.Fault)
	}
	a = ask(Question{To: "default/v1:8080", From: "default,app=x", URL: "http://billing:8080/"})
	if len(a.RateLimits) != 1 || a.RateLimits[0].Key != "client" || a.RateLimits[0].Requests != 10 {
		t.Errorf("%+v", a.RateLimits)
	}
	var b strings.Builder
	if err := a.WriteText(&b, false); err != nil || !strings.Contains(b.String(), "10 each 1m0s") {
		t.Errorf("%v %s", err, b.String())
	}
}
