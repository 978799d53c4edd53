package decide

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func policy(t *testing.T, attempts uint32, on string) *Retry {
	t.Helper()
	p := &seinev1.Retry{Attempts: attempts}
	if on != "" {
		p.On = strings.Split(on, ",")
	}
	r, err := compileRetry(p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRetryConditions is Envoy's x-envoy-retry-on, condition by condition: for
// each, which of these outcomes it repeats.
func TestRetryConditions(t *testing.T) {
	answer := func(status int, grpc string) Try {
		return Try{Failure: Answered, Status: status, GRPCStatus: []byte(grpc), Sent: true}
	}
	tries := []struct {
		name string
		try  Try
	}{
		{"200", answer(200, "")}, {"404", answer(404, "")}, {"409", answer(409, "")}, {"500", answer(500, "")},
		{"501", answer(501, "")}, {"502", answer(502, "")}, {"503", answer(503, "")}, {"504", answer(504, "")}, {"599", answer(599, "")},
		{"connect", Try{Failure: ConnectFailed}},
		{"reset", Try{Failure: Reset, Sent: true}},
		{"early", Try{Failure: Reset}}, // before anything was sent
		{"refused", Try{Failure: Refused, Sent: true}},
		{"slow", Try{Failure: TryTimeout, Sent: true}},
		{"overloaded", Try{Failure: Answered, Status: 503, Overloaded: true, Sent: true}},
		{"limited", Try{Failure: Answered, Status: 429, RateLimited: true, Sent: true}},
		{"limited503", Try{Failure: Answered, Status: 503, RateLimited: true, Sent: true}},
		{"g0", answer(200, "0")}, {"g1", answer(200, "1")}, {"g4", answer(200, "4")}, {"g8", answer(200, "8")},
		{"g13", answer(200, "13")}, {"g14", answer(200, "14")}, {"g2", answer(200, "2")}, {"g14x", answer(200, "140")},
	}
	const gone = " connect reset early refused slow"
	for _, c := range []struct{ on, want string }{
		{"5xx", "500 501 502 503 504 599" + gone},
		{"gateway-error", "502 503 504" + gone},
		{"reset", gone},
		{"reset-before-request", "connect early"},
		{"connect-failure", "connect"},
		{"refused-stream", "refused"},
		{"retriable-4xx", "409"},
		{"retriable-status-codes", ""},
		{"503", "503"},
		{"409,599,retriable-status-codes", "409 599"},
		{"404,connect-failure", "404 connect"},
		{"retriable-headers", ""},
		{"envoy-ratelimited", "limited limited503"},
		{"5xx,envoy-ratelimited", "500 501 502 503 504 599" + gone + " limited limited503"},
		{"http3-post-connect-failure", ""},
		{"cancelled", "g1"}, {"deadline-exceeded", "g4"}, {"resource-exhausted", "g8"}, {"internal", "g13"}, {"unavailable", "g14"},
	} {
		r := policy(t, 1, c.on)
		want := map[string]bool{}
		for _, name := range strings.Fields(c.want) {
			want[name] = true
		}
		for _, o := range tries {
			o.try.Number, o.try.Idempotent, o.try.Kept = 1, true, true
			if got := r.Next(&o.try); (got == Again) != want[o.name] || got != Again && got != Final {
				t.Errorf("%s, %s: %v", c.on, o.name, got)
			}
		}
	}
}

// TestRetryNext holds what does not depend on the condition.
func TestRetryNext(t *testing.T) {
	written, byDefault := policy(t, 2, "5xx"), policy(t, 2, "")
	for _, c := range []struct {
		name string
		r    *Retry
		try  Try
		want Sequel
	}{
		{"no policy", nil, Try{Failure: ConnectFailed, Number: 1, Kept: true}, Final},
		{"attempts: 0", policy(t, 0, "5xx"), Try{Failure: ConnectFailed, Number: 1, Kept: true}, Final},
		{"default, connect", DefaultRetry, Try{Failure: ConnectFailed, Number: 1, Kept: true}, Again},
		{"default, second retry", DefaultRetry, Try{Failure: ConnectFailed, Number: 2, Kept: true}, Again},
		{"default, used up", DefaultRetry, Try{Failure: ConnectFailed, Number: 3, Kept: true}, Exhausted},
		{"default, a 503", DefaultRetry, Try{Failure: Answered, Status: 503, Number: 1, Sent: true, Idempotent: true, Kept: true}, Final},
		{"default, a reset", DefaultRetry, Try{Failure: Reset, Number: 1, Sent: true, Idempotent: true, Kept: true}, Final},
		{"default, POST refused", DefaultRetry, Try{Failure: Refused, Number: 1, Sent: true, Kept: true}, Again},
		{"default, gRPC reached the application", DefaultRetry, Try{Failure: Answered, Status: 200, GRPCStatus: []byte("14"), Number: 1, Sent: true, Kept: true}, Unsafe},
		{"no conditions, POST", byDefault, Try{Failure: Answered, Status: 200, GRPCStatus: []byte("14"), Number: 1, Sent: true, Kept: true}, Unsafe},
		{"written, POST", written, Try{Failure: Answered, Status: 503, Number: 1, Sent: true, Kept: true}, Again},
		{"written, POST not kept", written, Try{Failure: Answered, Status: 503, Number: 1, Sent: true}, TooLarge},
		{"no connection, but sent on one before", written, Try{Failure: ConnectFailed, Number: 2}, TooLarge},
		{"used up before too large", written, Try{Failure: Answered, Status: 503, Number: 3, Sent: true}, Exhausted},
		{"good at last", written, Try{Failure: Answered, Status: 200, Number: 3, Sent: true}, Final},
	} {
		if got := c.r.Next(&c.try); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestCompileRetry(t *testing.T) {
	r, err := compileRetry(&seinev1.Retry{
		Attempts: 3, PerTryTimeout: durationpb.New(time.Second), Backoff: durationpb.New(time.Minute), AnyHost: true,
		On: []string{"503", "gateway-error", "409", "503", "retriable-status-codes"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Conditions(); got != "gateway-error,409,503" || r.PerTry != time.Second || r.Backoff != time.Minute || !r.AnyHost || !r.Written || r.Attempts != 3 {
		t.Errorf("%q %+v", got, r)
	}
	if got := DefaultRetry.Conditions(); got != "connect-failure,refused-stream,cancelled,unavailable" {
		t.Error(got)
	}
	for _, p := range []*seinev1.Retry{
		{Attempts: 1, On: []string{"5XX"}}, {Attempts: 1, On: []string{""}}, {Attempts: 1, On: []string{"99"}}, {Attempts: 1, On: []string{"1000"}},
		{Attempts: 1, Backoff: durationpb.New(0)}, {Attempts: 1, PerTryTimeout: durationpb.New(-1)},
	} {
		if r, err := compileRetry(p); err == nil {
			t.Errorf("%v: %+v", p, r)
		}
	}
}

// TestPause: the n-th pause is uniform below min(2^n-1, 10) bases.
func TestPause(t *testing.T) {
	r := DefaultRetry
	for n, bases := range map[int]int64{1: 1, 2: 3, 3: 7, 4: 10, 5: 10, 1000: 10} {
		limit := time.Duration(bases) * DefaultBackoff
		if got := r.Pause(n, 0); got != 0 {
			t.Errorf("%d: least %v", n, got)
		}
		if got := r.Pause(n, 1<<63); got != limit/2 {
			t.Errorf("%d: middle %v of %v", n, got, limit)
		}
		if got := r.Pause(n, ^uint64(0)); got >= limit || got < limit-time.Microsecond {
			t.Errorf("%d: most %v of %v", n, got, limit)
		}
	}
	if d := (&Retry{Backoff: 1<<63 - 1}).Pause(9, ^uint64(0)); d < 0 {
		t.Error(d)
	}
}

func TestPickAgain(t *testing.T) {
	svc, err := CompileService(&seinev1.Service{Host: "a", Port: 1})
	if err != nil {
		t.Fatal(err)
	}
	var eps []*Endpoint
	for i, l := range []string{"a", "a", "b", "b"} {
		e, err := CompileEndpoint(&seinev1.Endpoint{Id: fmt.Sprint(i), Address: fmt.Sprintf("10.0.0.%d", i+1), Port: 1, Locality: l})
		if err != nil {
			t.Fatal(err)
		}
		eps = append(eps, e)
	}
	c := svc.Clusters(eps)[""]
	b := c.NewBalance(nil, 1, 1, time.Time{})
	rng := rand.New(rand.NewPCG(1, 2))
	for _, k := range []struct {
		name   string
		tried  []*Endpoint
		remote bool
		out    int
		want   string
	}{
		{"nothing tried", nil, false, -1, "0123"},
		{"one", eps[:1], false, -1, "123"},
		{"three", eps[:3], false, -1, "3"},
		{"all", eps, false, -1, "0123"},
		{"gone since", []*Endpoint{{Proto: &seinev1.Endpoint{Id: "9", Locality: "a"}}}, false, -1, "0123"},
		{"replaced since", []*Endpoint{{Proto: &seinev1.Endpoint{Id: "1", Locality: "a"}}}, false, -1, "023"},
		{"remote", eps[:1], true, -1, "23"},
		{"remote, both tried", []*Endpoint{eps[0], eps[2]}, true, -1, "13"},
		{"taken out", eps[:2], false, 2, "3"},
	} {
		if k.out >= 0 {
			b.SetOut(k.out, true, 1)
		}
		seen := [4]int{}
		for range 2000 {
			seen[b.PickAgain(&Ask{Draw: rng.Uint64(), Now: 1}, k.tried, k.remote)]++
		}
		got := ""
		for i, n := range seen {
			if n > 0 {
				got += fmt.Sprint(i)
			}
		}
		if got != k.want {
			t.Errorf("%s: %v", k.name, seen)
		}
	}
	q := &Ask{Now: 1}
	if n := testing.AllocsPerRun(100, func() { q.Draw = rng.Uint64(); b.PickAgain(q, eps[:2], true) }); n != 0 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
	if got := svc.Clusters(nil)[""].NewBalance(nil, 1, 1, time.Time{}).PickAgain(q, eps[:1], false); got != -1 {
		t.Error(got)
	}
}

func TestRetryAllocates(t *testing.T) {
	r := policy(t, 2, "")
	try := Try{Failure: Answered, Status: 200, GRPCStatus: []byte("14"), Number: 1, Sent: true, Kept: true, Idempotent: true}
	if n := testing.AllocsPerRun(100, func() { r.Next(&try) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
