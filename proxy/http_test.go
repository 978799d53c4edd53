//go:build linux

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestPairForwards(t *testing.T) {
	at := app(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Header.Get("X-Forwarded-Client-Cert"))
		w.Header().Set("X-Id", r.Header.Get("X-Request-Id"))
		w.Header().Set("X-Proto", r.Header.Get("X-Forwarded-Proto"))
		fmt.Fprintf(w, "%s %s %d %s", r.Method, r.URL.Path, len(b), r.Host)
	})
	p := startPair(t, at, nil, nil)
	c := dial(t, p.addr)
	for i := range 5 {
		c.write("POST /pay/%d HTTP/1.1\r\nHost: billing:8080\r\nX-Forwarded-Client-Cert: forged\r\nContent-Length: 4\r\n\r\nabcd", i)
		res, body := c.response("POST")
		if want := fmt.Sprintf("POST /pay/%d 4 billing:8080", i); body != want || res.StatusCode != 200 {
			t.Fatalf("%d %q, want %q", res.StatusCode, body, want)
		}
		xfcc := res.Header.Get("X-Seen")
		if !strings.Contains(xfcc, "URI="+frontendID) || !strings.Contains(xfcc, "By="+billingID) || strings.Contains(xfcc, "forged") {
			t.Errorf("x-forwarded-client-cert: %q", xfcc)
		}
		if len(res.Header.Get("X-Id")) != 36 || res.Header.Get("X-Proto") != "http" {
			t.Errorf("x-request-id %q, x-forwarded-proto %q", res.Header.Get("X-Id"), res.Header.Get("X-Proto"))
		}
	}
	for _, m := range []string{p.client.metrics(t), p.server.metrics(t)} {
		if !strings.Contains(m, `source_workload="frontend"`) || !strings.Contains(m, `destination_workload="billing"`) {
			t.Errorf("both sides' labels are missing:\n%s", m)
		}
	}
}
