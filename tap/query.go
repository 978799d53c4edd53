package tap

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/telemetry"
)

// Bounds of a Query.
const (
	DefaultRate = 100
	MaxRate     = 1000 // requests a second that are shown
	maxText     = 253
	maxList     = 16
)

// ErrQuery is what every query is that cannot be understood.
var ErrQuery = errors.New("the filter is not understood")

// Query says which requests to show: everything that is set must hold.
type Query struct {
	// Whose proxies show: a namespace, a workload (a Deployment's name, …), one
	// instance of it.
	Namespace, Workload, Pod string
	Direction                string // "inbound", "outbound"; "": both
	From, To                 Target
	Methods                  []string
	Path                     string // a prefix; with * a pattern of the whole path
	Authority                string // with * a pattern
	Status                   []string
	MinLatency               time.Duration
	MaxRPS                   int // 0: DefaultRate
	// Headers are request fields to show, without their values; HeaderValues those
	// with values.
	Headers, HeaderValues []string
	FullPath              bool // with the query
}

// Target is one side of a call: at most one of Service, Workload and Pod.
type Target struct{ Namespace, Service, Workload, Pod string }

// kinds are the words for a workload that people know from kubectl.
var kinds = []string{"deploy", "deployment", "deployments", "sts", "statefulset", "ds", "daemonset", "job", "cronjob", "rs", "replicaset", "workload"}

// ParseTarget reads deploy/NAME and its like, svc/NAME, pod/NAME and ns/NAME; a
// name alone is of the kind plain ("svc", "pod").
func ParseTarget(s, namespace, plain string) (Target, error) {
	t := Target{Namespace: namespace}
	if s == "" {
		return t, nil
	}
	kind, name, ok := strings.Cut(s, "/")
	if !ok {
		kind, name = plain, s
	}
	switch {
	case !named(name):
		return t, fmt.Errorf("%w: %.100q names nothing: write deploy/NAME, svc/NAME, pod/NAME or ns/NAME", ErrQuery, s)
	case slices.Contains(kinds, kind):
		t.Workload = name
	case kind == "svc" || kind == "service":
		t.Service = name
	case kind == "po" || kind == "pod":
		t.Pod = name
	case kind == "ns" || kind == "namespace":
		if namespace != "" && namespace != name {
			return t, fmt.Errorf("%w: namespace %s, or %s?", ErrQuery, name, namespace)
		}
		t.Namespace = name
	default:
		return t, fmt.Errorf("%w: %.100q is of no kind that is known here: write deploy/NAME, svc/NAME, pod/NAME or ns/NAME", ErrQuery, s)
	}
	return t, nil
}

// named reports whether s can be the name of something in a cluster.
func named(s string) bool {
	return s != "" && len(s) <= maxText && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == ""
}

func (t Target) String() string {
	switch {
	case t.Service != "":
		return "svc/" + t.Service
	case t.Workload != "":
		return "deploy/" + t.Workload
	case t.Pod != "":
		return "pod/" + t.Pod
	}
	return ""
}

func (t Target) party() *seinev1.TapParty {
	if t == (Target{}) {
		return nil
	}
	return &seinev1.TapParty{Namespace: t.Namespace, Service: t.Service, Workload: t.Workload, Instance: t.Pod}
}

// Values returns the parameters that ParseQuery reads.
func (q *Query) Values() url.Values {
	v := url.Values{}
	set := func(name string, values ...string) {
		for _, s := range values {
			if s != "" {
				v.Add(name, s)
			}
		}
	}
	set("namespace", q.Namespace)
	set("workload", q.Workload)
	set("pod", q.Pod)
	set("direction", q.Direction)
	set("from", q.From.String())
	set("fromNamespace", q.From.Namespace)
	set("to", q.To.String())
	set("toNamespace", q.To.Namespace)
	set("method", q.Methods...)
	set("path", q.Path)
	set("authority", q.Authority)
	set("status", q.Status...)
	set("header", q.Headers...)
	set("headerValue", q.HeaderValues...)
	if q.MinLatency > 0 {
		set("minLatency", q.MinLatency.String())
	}
	if q.MaxRPS > 0 {
		set("maxRps", strconv.Itoa(q.MaxRPS))
	}
	if q.FullPath {
		set("query", "true")
	}
	return v
}

// ParseQuery reads the parameters of a request for a tap, strictly: a parameter
// that is not known would else show what was meant to be left out.
func ParseQuery(v url.Values) (*Query, error) {
	q := &Query{}
	one := map[string]*string{
		"namespace": &q.Namespace, "workload": &q.Workload, "pod": &q.Pod, "direction": &q.Direction, "path": &q.Path, "authority": &q.Authority,
		"to": new(string), "toNamespace": new(string), "from": new(string), "fromNamespace": new(string),
		"minLatency": new(string), "maxRps": new(string), "query": new(string),
	}
	many := map[string]*[]string{"method": &q.Methods, "status": &q.Status, "header": &q.Headers, "headerValue": &q.HeaderValues}
	for name, values := range v {
		for _, s := range values {
			if len(s) > maxText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return nil, fmt.Errorf("%w: the value of %.100q is longer than %d bytes, or holds control characters", ErrQuery, name, maxText)
			}
		}
		switch to, list := one[name], many[name]; {
		case to != nil && len(values) == 1:
			*to = values[0]
		case list != nil && len(values) <= maxList:
			*list = values
		case to != nil || list != nil:
			return nil, fmt.Errorf("%w: %q is there %d times", ErrQuery, name, len(values))
		default:
			return nil, fmt.Errorf("%w: %.100q is no parameter of a tap", ErrQuery, name)
		}
	}
	var err error
	fail := func(e error) { err = cmp.Or(err, e) }
	var e error
	q.To, e = ParseTarget(*one["to"], *one["toNamespace"], "svc")
	fail(e)
	q.From, e = ParseTarget(*one["from"], *one["fromNamespace"], "pod")
	fail(e)
	if q.From.Service != "" {
		fail(fmt.Errorf("%w: a service calls nobody: give --from a workload", ErrQuery))
	}
	if s := *one["minLatency"]; s != "" {
		if q.MinLatency, e = time.ParseDuration(s); e != nil || q.MinLatency < 0 {
			fail(fmt.Errorf("%w: minLatency %q is no duration, such as 100ms", ErrQuery, s))
		}
	}
	if s := *one["maxRps"]; s != "" {
		if q.MaxRPS, e = strconv.Atoi(s); e != nil {
			fail(fmt.Errorf("%w: maxRps %q is no number", ErrQuery, s))
		}
	}
	switch *one["query"] {
	case "", "false":
	case "true":
		q.FullPath = true
	default:
		fail(fmt.Errorf("%w: query is true or false", ErrQuery))
	}
	if err != nil {
		return nil, err
	}
	return q, q.check()
}

func (q *Query) check() error {
	if q.MaxRPS == 0 {
		q.MaxRPS = DefaultRate
	}
	switch {
	case q.Direction != "" && q.Direction != "inbound" && q.Direction != "outbound":
		return fmt.Errorf("%w: direction %q is neither inbound nor outbound", ErrQuery, q.Direction)
	case q.MaxRPS < 1 || q.MaxRPS > MaxRate:
		return fmt.Errorf("%w: %d requests a second; 1 to %d can be shown", ErrQuery, q.MaxRPS, MaxRate)
	case q.Pod != "" && q.Namespace == "":
		return fmt.Errorf("%w: pod %s of which namespace?", ErrQuery, q.Pod)
	}
	for _, s := range q.Status {
		if _, err := statusRange(s); err != nil {
			return err
		}
	}
	for _, h := range append(slices.Clone(q.Headers), q.HeaderValues...) {
		if !named(h) {
			return fmt.Errorf("%w: %.100q is no name of a header field", ErrQuery, h)
		}
	}
	for _, h := range q.HeaderValues {
		if telemetry.Sensitive(strings.ToLower(h)) {
			return fmt.Errorf("%w: the value of %s is never shown: it authenticates somebody. Ask for it without its value", ErrQuery, h)
		}
	}
	return nil
}

// statusRange reads 503, 5xx and 500-504.
func statusRange(s string) (*seinev1.TapStatus, error) {
	if len(s) == 3 && s[0] >= '1' && s[0] <= '5' && strings.EqualFold(s[1:], "xx") {
		least := uint32(s[0]-'0') * 100
		return &seinev1.TapStatus{Least: least, Most: least + 99}, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err := strconv.ParseUint(from, 10, 10)
	b, err2 := strconv.ParseUint(to, 10, 10)
	if err != nil || err2 != nil || a > b || b > 599 {
		return nil, fmt.Errorf("%w: status %q is none of 503, 5xx, 500-504", ErrQuery, s)
	}
	return &seinev1.TapStatus{Least: uint32(a), Most: uint32(b)}, nil
}

// selects reports whether w's proxy is to show.
func (q *Query) selects(w *mesh.Workload) bool {
	return (q.Namespace == "" || q.Namespace == w.Namespace) && (q.Workload == "" || q.Workload == w.App) && (q.Pod == "" || q.Pod == w.Instance)
}

// spec is what those proxies are told. q was checked.
func (q *Query) spec(id uint64) *seinev1.TapSpec {
	p := &seinev1.TapSpec{
		Id: id, From: q.From.party(), To: q.To.party(), Methods: q.Methods, Path: q.Path, Authority: q.Authority,
		MaxRps: uint32(q.MaxRPS), Query: q.FullPath,
	}
	switch q.Direction {
	case "inbound":
		p.Direction = seinev1.TapSpec_INBOUND
	case "outbound":
		p.Direction = seinev1.TapSpec_OUTBOUND
	}
	if p.Path != "" && !strings.Contains(p.Path, "*") {
		p.Path += "*"
	}
	if q.MinLatency > 0 {
		p.MinLatency = durationpb.New(q.MinLatency)
	}
	for _, s := range q.Status {
		r, _ := statusRange(s)
		p.Statuses = append(p.Statuses, r)
	}
	for _, h := range q.HeaderValues {
		p.Headers = append(p.Headers, &seinev1.TapHeader{Name: strings.ToLower(h), Value: true})
	}
	for _, h := range q.Headers {
		if h = strings.ToLower(h); !slices.ContainsFunc(p.Headers, func(o *seinev1.TapHeader) bool { return o.Name == h }) {
			p.Headers = append(p.Headers, &seinev1.TapHeader{Name: h})
		}
	}
	p.Headers = p.Headers[:min(len(p.Headers), maxList)]
	return p
}
