package controlplane

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/seinemesh/seine/config/kube"
)

// refusing is a source of which some resources are refused.
type refusing struct {
	good, without []kube.Kept
	ready         bool
	recalled      []kube.Kept
}

func (r *refusing) Kept() (good, without []kube.Kept, ok bool) { return r.good, r.without, r.ready }
func (r *refusing) Recall(list []kube.Kept)                    { r.recalled = append(r.recalled, list...) }

func TestKept(t *testing.T) {
	client := fake.NewClientset()
	replica := func(leads bool) (*kept, *refusing) {
		source := &refusing{ready: true}
		log := slog.New(slog.DiscardHandler)
		s := &server{opt: Options{Cluster: &Cluster{Client: client, Namespace: "seine-system"}}, log: log, lead: newLeadership(log)}
		if leads {
			s.lead.alone(t.Context())
		}
		return &kept{s: s, source: source}, source
	}
	there := func() string {
		t.Helper()
		m, err := client.CoreV1().ConfigMaps("seine-system").Get(t.Context(), "seine-kept", metav1.GetOptions{})
		if err != nil {
			return "nothing"
		}
		var list []kube.Kept
		if err := json.Unmarshal([]byte(m.Data[keptKey]), &list); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, k := range list {
			names = append(names, k.Name)
		}
		return strings.Join(names, " ")
	}
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	step := func(k *kept, want string) {
		t.Helper()
		now = now.Add(time.Second)
		if err := k.step(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if got := there(); got != want {
			t.Errorf("there is %s, want %s", got, want)
		}
	}
	version := func(name string, size int) kube.Kept {
		return kube.Kept{Kind: "VirtualService", Namespace: "shop", Name: name, UID: "1", Data: json.RawMessage(fmt.Sprintf("%q", strings.Repeat("x", size)))}
	}
	bare := func(k kube.Kept) kube.Kept { k.Data = nil; return k }
	a, b := version("a", 9), version("b", 9)

	leader, source := replica(true)
	step(leader, "nothing")
	source.good = []kube.Kept{a}
	follower, other := replica(false)
	other.good = []kube.Kept{a, b}
	step(follower, "nothing") // it is not the leader
	step(leader, "a")
	source.good = []kube.Kept{a, b}
	step(leader, "a b")

	// The next process, and another that never saw the good version.
	next, anew := replica(true)
	anew.ready = false
	if err := next.recall(t.Context()); err != nil || len(anew.recalled) != 2 {
		t.Errorf("recalled %v, %v", anew.recalled, err)
	}
	step(next, "a b") // nothing was read yet: nothing is given up
	late, ignorant := replica(true)
	ignorant.good, ignorant.without = []kube.Kept{b}, []kube.Kept{bare(a)}
	step(late, "b a")
	if len(ignorant.recalled) != 1 || ignorant.recalled[0].Name != "a" {
		t.Errorf("recalled %v", ignorant.recalled)
	}
	another := bare(a)
	another.UID = "2"
	ignorant.without = []kube.Kept{another}
	step(late, "b")

	// Too much: the largest is left out.
	large := version("large", keptBytes)
	ignorant.good, ignorant.without = []kube.Kept{a, large, b}, nil
	step(late, "a b")
	ignorant.good = nil
	step(late, "nothing")
	reads := len(client.Actions())
	step(late, "nothing")
	if n := len(client.Actions()) - reads; n != 1 { // the test's own
		t.Errorf("%d requests although nothing is refused", n-1)
	}
}
