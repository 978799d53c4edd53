package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/seinemesh/seine/config"
)

func TestConditions(t *testing.T) {
	at := Taken{Kind: "VirtualService", Namespace: "shop", Name: "r", Generation: 7}
	refused := config.Finding{Severity: config.Error, Refused: true, Path: "spec.hosts", Message: "no; the version before it still holds"}
	conflict := config.Finding{Severity: config.Error, Code: "SEINE0203", Path: "spec.hosts[0]", Message: "VirtualService shop/first holds"}
	for name, tc := range map[string]struct {
		findings config.Findings
		reach    Reach
		want     []string // "type status reason message"
	}{
		"in step":  {nil, Reach{Proxies: 3, Acknowledged: 3}, []string{"Accepted True Accepted taken as it is written", "Programmed True Programmed 3 of 3 proxies have acknowledged generation 7"}},
		"no proxy": {nil, Reach{}, []string{"Accepted True Accepted taken as it is written", "Programmed True Programmed 0 of 0 proxies have acknowledged generation 7"}},
		"on its way": {nil, Reach{Proxies: 3, Acknowledged: 1, Behind: []string{"shop/a", "shop/b"}}, []string{"Accepted True Accepted taken as it is written",
			"Programmed False Pending 1 of 3 proxies have acknowledged generation 7; behind: shop/a, shop/b"}},
		"a proxy refuses": {nil, Reach{Proxies: 1, Acknowledged: 1, Refused: "shop/a refused http/80/a: bad"}, []string{"Accepted True Accepted taken as it is written", "Programmed False Refused shop/a refused http/80/a: bad"}},
		"invalid": {config.Findings{refused, conflict}, Reach{Proxies: 1, Acknowledged: 1}, []string{"Accepted False Invalid spec.hosts: no; the version before it still holds",
			"Programmed False Invalid generation 7 is not served: it is not accepted"}},
		"a conflict names the winner": {config.Findings{conflict}, Reach{}, []string{"Accepted True Conflicted spec.hosts[0]: VirtualService shop/first holds", "Programmed True Programmed 0 of 0 proxies have acknowledged generation 7"}},
		"an error": {config.Findings{{Severity: config.Warning, Message: "w"}, {Severity: config.Error, Message: "e"}, {Severity: config.Info, Message: "i"}}, Reach{},
			[]string{"Accepted True HasErrors w\ne", "Programmed True Programmed 0 of 0 proxies have acknowledged generation 7"}},
		"a warning": {config.Findings{{Severity: config.Warning, Message: "w"}}, Reach{}, []string{"Accepted True HasWarnings w", "Programmed True Programmed 0 of 0 proxies have acknowledged generation 7"}},
	} {
		at.Findings = tc.findings
		for i, c := range at.Conditions(tc.reach) {
			if got := strings.Join([]string{c.Type, string(c.Status), c.Reason, c.Message}, " "); got != tc.want[i] || c.ObservedGeneration != 7 {
				t.Errorf("%s: %q, want %q", name, got, tc.want[i])
			}
		}
	}
}

func TestTaken(t *testing.T) {
	b := newBench(t)
	vs := route("r", 2000, "100")
	vs.version, vs.resource, vs.generation = "v1", "virtualservices", 1
	b.apply(service("billing"))
	b.apply(vs)
	b.next()
	b.s.state.putPod(somePod("a", "10.0.0.1"))
	b.next()
	list := b.s.Taken()
	if len(list) != 1 || list[0].Since != 1 || list[0].Resource != "virtualservices" || list[0].Generation != 1 {
		t.Fatalf("%+v", list)
	}
	changed := route("r", 2000, "-5")
	changed.version, changed.resource, changed.generation = "v1", "virtualservices", 2
	b.apply(changed)
	b.next()
	list = b.s.Taken()
	if len(list) != 1 || list[0].Since != 3 || list[0].Generation != 2 || list[0].Findings.Err() == nil {
		t.Fatalf("%+v", list)
	}
}

// statusServer is an API server that knows one VirtualService and counts what is
// written.
type statusServer struct {
	status   map[string]any
	writes   int
	conflict bool
	manager  string
}

func (s *statusServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	object := map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": map[string]any{"name": "r", "namespace": "shop"}, "status": s.status}
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodPatch {
		if s.conflict {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(apierrors.NewConflict(schema.GroupResource{}, "r", errors.New("istiod owns it")).Status())
			return
		}
		s.writes++
		s.manager = r.URL.Query().Get("fieldManager") + " " + r.URL.Query().Get("force") + " " + r.Header.Get("Content-Type") + " " + r.URL.Path
		body, _ := io.ReadAll(r.Body)
		var sent map[string]any
		_ = json.Unmarshal(body, &sent)
		s.status, _ = sent["status"].(map[string]any)
	}
	_ = json.NewEncoder(w).Encode(object)
}

func TestStatusIsWrittenOnce(t *testing.T) {
	api := &statusServer{}
	srv := httptest.NewServer(api)
	defer srv.Close()
	now := time.Unix(1000, 0)
	open := func() *Status {
		w, err := NewStatus(&rest.Config{Host: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		w.now = func() time.Time { return now }
		return w
	}
	w := open()
	at := &Taken{GroupVersionResource: schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}, Kind: "VirtualService", Namespace: "shop", Name: "r", Generation: 1}
	write := func(w *Status, r Reach) bool {
		t.Helper()
		wrote, err := w.Write(context.Background(), at, at.Conditions(r))
		if err != nil {
			t.Fatal(err)
		}
		return wrote
	}
	pending := Reach{Proxies: 2, Acknowledged: 1, Behind: []string{"shop/a"}}
	if !write(w, pending) || write(w, pending) || api.writes != 1 {
		t.Errorf("%d writes", api.writes)
	}
	if api.manager != "seined  application/apply-patch+yaml /apis/networking.istio.io/v1/namespaces/shop/virtualservices/r/status" {
		t.Error(api.manager)
	}
	now = now.Add(time.Minute)
	if !write(w, Reach{Proxies: 2, Acknowledged: 2}) {
		t.Error("the last proxy was not said")
	}
	got := conditionsIn(map[string]any{"status": api.status})
	if len(got) != 2 || !got[0].LastTransitionTime.Time.Equal(time.Unix(1000, 0)) || !got[1].LastTransitionTime.Time.Equal(now) || got[1].Status != metav1.ConditionTrue {
		t.Errorf("%+v", got)
	}
	if write(w, Reach{Proxies: 3, Acknowledged: 3}) {
		t.Error("a proxy more is no news")
	}
	// Another leader finds what this one wrote.
	if write(open(), Reach{Proxies: 2, Acknowledged: 2}) {
		t.Error("written again by another leader")
	}
	w.Keep(nil)
	api.conflict, at.Generation = true, 2
	if _, err := w.Write(context.Background(), at, at.Conditions(Reach{})); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Error(err)
	}
	if wrote, err := w.Write(context.Background(), at, at.Conditions(pending)); wrote || err != nil {
		t.Errorf("fought over: %v %v", wrote, err)
	}
}
