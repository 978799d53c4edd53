//go:build envoy

// Package envoy runs the same requests through a real Envoy and through Seine, and
// compares what the client and the application see of them.
//
// Seine is configured by Istio's resources, Envoy by what Istio's control plane makes
// of those. Where the two differ, the difference is either mended or named with its
// reason: in a call's differs, or in everywhere below, and in docs/traffic.md.
package envoy

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// everywhere are the differences that any call may show, by the part of what is seen,
// and why Seine differs.
var everywhere = map[string]string{
	"app x-envoy-internal": "where a request comes from is told by identities",
}

// unseen are fields that say what time it is, or which program answered.
var unseen = map[string]bool{
	"date": true, "server": true, "x-request-id": true, "x-envoy-upstream-service-time": true, "x-seine-cause": true,
}

// result is what is seen of one call, by its parts.
type result map[string]string

// send makes a call and returns what the client saw.
func send(p *plane, s *scenario, c *call, id string) result {
	head := c.head
	if head == "" {
		head = "GET / HTTP/1.1"
	}
	host := s.host() + ":8080"
	var lines []string
	for line := range strings.Lines(head) {
		line = strings.TrimRight(line, "\n")
		if is, ok := strings.CutPrefix(line, "host-is: "); ok {
			host = strings.NewReplacer("HOST", s.host(), "OTHERCASE", strings.ToUpper(s.host())).Replace(is)
			continue
		}
		lines = append(lines, strings.ReplaceAll(line, "HOST", s.host()))
	}
	out := lines[0] + "\r\n"
	if host != "NONE" {
		out += "Host: " + host + "\r\n"
	}
	out += "user-agent: " + id + "\r\nx-case: " + id + "\r\nx-app: " + c.app + "\r\n"
	for _, l := range lines[1:] {
		out += l + "\r\n"
	}
	r := result{}
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		r["client"] = err.Error()
		return r
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(8 * time.Second))
	if _, err := io.WriteString(conn, out+"\r\n"+c.body); err != nil {
		r["client"] = "cannot send"
		return r
	}
	method, _, _ := strings.Cut(lines[0], " ")
	in := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			r["client"] = "no answer"
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				r["client"] = "silence"
			}
			return r
		}
		if res.StatusCode < 200 && res.StatusCode != 101 {
			r["interim"] += fmt.Sprint(res.StatusCode, " ", res.Header)
			continue
		}
		r["status"] = fmt.Sprint(res.StatusCode)
		body, err := io.ReadAll(res.Body)
		if err != nil {
			r["cut"] = "yes"
		}
		mine := res.Header.Get("x-app") != ""
		if mine {
			r["body"] = string(body)
		}
		r["framing"] = "length"
		if len(res.TransferEncoding) > 0 {
			r["framing"] = res.TransferEncoding[0]
		} else if res.ContentLength < 0 {
			r["framing"] = "close"
		}
		if !mine {
			delete(r, "framing")
			res.Header.Del("content-length")
			res.Header.Del("content-type")
		}
		r["trailers"] = fmt.Sprint(res.Trailer)
		for name, values := range res.Header {
			if name = strings.ToLower(name); !unseen[name] {
				r["answer "+name] = strings.Join(values, " | ")
			}
		}
		if res.Close {
			r["closes"] = "yes"
		}
		return r
	}
}

// ask makes a call, as often as it says, and adds what the application saw and what
// was logged.
func ask(t *testing.T, p *plane, app *application, s *scenario, c *call) result {
	id := fmt.Sprintf("%s/%s/%s", p.name, s.name, c.name)
	id = regexp.MustCompile(`[^A-Za-z0-9/-]`).ReplaceAllString(id, "_")
	if c.times > 0 {
		counts := map[string]int{}
		for i := range c.times {
			one := send(p, s, c, fmt.Sprintf("%s/%d", id, i))
			counts[one["status"]+one["client"]]++
		}
		return result{"statuses": fmt.Sprint(counts)}
	}
	r := send(p, s, c, id)
	tries := app.seen(id)
	r["tries"] = fmt.Sprint(len(tries))
	if len(tries) > 0 {
		last := tries[len(tries)-1]
		r["app line"], r["app body"], r["app trailers"] = last.line, last.body, last.trailers
		for _, f := range last.fields {
			name, value, _ := strings.Cut(f, ": ")
			if unseen[name] || name == "x-case" || name == "user-agent" || name == "x-app" {
				continue
			}
			if before, ok := r["app "+name]; ok {
				value = before + " | " + value
			}
			r["app "+name] = value
		}
	}
	if r["client"] == "" {
		// A head that is refused is logged without the fields that name the call.
		if r["status"] == "400" {
			return r
		}
		for end := time.Now().Add(500 * time.Millisecond); ; time.Sleep(5 * time.Millisecond) {
			if r["flags"] = p.flags(id); r["flags"] != "" || time.Now().After(end) {
				break
			}
		}
		flags := strings.Split(r["flags"], ",")
		slices.Sort(flags) // Envoy's stand in the order in which they came up
		r["flags"] = strings.Join(flags, ",")
	}
	return r
}

// compare reports the parts in which two results differ.
func compare(t *testing.T, c *call, envoy, seine result) {
	if why := c.differs["*"]; why != "" {
		if maps.Equal(envoy, seine) {
			t.Error("they do not differ")
		}
		return
	}
	names := slices.Sorted(maps.Keys(envoy))
	for _, n := range slices.Sorted(maps.Keys(seine)) {
		if _, ok := envoy[n]; !ok {
			names = append(names, n)
		}
	}
	for _, n := range names {
		e, s := envoy[n], seine[n]
		_, any := everywhere[n]
		_, here := c.differs[n]
		switch {
		case e != s && !any && !here:
			t.Errorf("%s: Envoy %q, Seine %q", n, e, s)
		case e == s && here:
			t.Errorf("%s is %q in both: it need not be excused", n, e)
		}
	}
	for n := range c.differs {
		if !slices.Contains(names, n) {
			t.Errorf("%s is nowhere: it need not be excused", n)
		}
	}
}

// TestSameAsEnvoy runs every call of every scenario through both.
func TestSameAsEnvoy(t *testing.T) {
	envoyBinary(t)
	scenarios := append(all(), poolScenario())
	// Each plane has applications of its own: what one does to an endpoint is not the
	// other's to see.
	app := &application{tries: map[string][]try{}, who: map[string][]int{}}
	begin := func(start func(testing.TB, []*scenario) *plane) *plane {
		for _, s := range scenarios {
			s.endpoints = nil
			servers := s.servers
			if servers == nil {
				servers = []string{"app"}
			}
			for i, is := range servers {
				at := netip.AddrPort{}
				if is == "dead" {
					at = nobody(t)
				} else {
					_, always, _ := strings.Cut(is, ":")
					at = app.instance(t, i, always)
				}
				s.endpoints = append(s.endpoints, at)
			}
		}
		return start(t, scenarios)
	}
	envoy := begin(startEnvoy)
	seine := begin(startSeine)
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for i := range s.calls {
				c := &s.calls[i]
				t.Run(c.name, func(t *testing.T) {
					compare(t, c, ask(t, envoy, app, s, c), ask(t, seine, app, s, c))
				})
			}
		})
	}
	t.Run("pool", func(t *testing.T) {
		s := scenarios[len(scenarios)-1]
		compare(t, &call{}, full(t, envoy, app, s), full(t, seine, app, s))
	})
}

// full is Istio's circuit-breaking task: of three requests at once one has the only
// connection, one may wait, and one is refused.
func full(t *testing.T, p *plane, app *application, s *scenario) result {
	id := func(n string) string { return p.name + "/" + s.name + "/" + n }
	held, waits := make(chan result, 1), make(chan result, 1)
	go func() { held <- send(p, s, &call{app: "delay=1000"}, id("held")) }()
	eventually(t, "the application has the first request", func() bool { return len(app.seen(id("held"))) == 1 })
	go func() { waits <- send(p, s, &call{}, id("waits")) }()
	eventually(t, "the second one waits", func() bool { return p.pending(s.name) == 1 })
	r := send(p, s, &call{}, id("refused"))
	eventually(t, "the third one is logged", func() bool { return p.flags(id("refused")) != "" })
	r["flags"], r["held"], r["waits"] = p.flags(id("refused")), (<-held)["status"], (<-waits)["status"]
	return r
}
