package kube

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/seinemesh/seine/config"
)

// TestKeptOverARestart: what held in the place of a refused resource holds in the
// next process, if it is of that very object and still good.
func TestKeptOverARestart(t *testing.T) {
	first := newBench(t)
	if _, _, ok := first.s.Kept(); ok {
		t.Error("something is known before anything was read")
	}
	first.apply(service("billing"))
	first.apply(route("r", 2000, "100"))
	first.next()
	if good, without, ok := first.s.Kept(); !ok || len(good)+len(without) != 0 {
		t.Errorf("nothing is refused: %v %v", good, without)
	}
	first.apply(route("r", 2000, "-7"))
	first.next()
	good, without, _ := first.s.Kept()
	if len(good) != 1 || good[0].Name != "r" || good[0].UID == "" || len(without) != 0 {
		t.Fatalf("%v %v", good, without)
	}
	text, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}

	outcome := func(b *bench, e config.Event) string {
		out := "left out"
		if vs := e.Result.Snapshot.VirtualServices; len(vs) == 1 {
			out = "holds"
		}
		for _, f := range e.Findings {
			if f.Refused && strings.Contains(f.Message, "still holds") {
				out += ", and said"
			}
		}
		good, without, _ := b.s.Kept()
		if len(good) > 0 {
			out += ", kept"
		}
		if len(without) > 0 {
			out += ", without"
		}
		return out
	}
	for name, tc := range map[string]struct {
		edit func(k *Kept)
		late bool // it is recalled when everything was read already
		now  string
		want string
	}{
		"before anything is read":  {nil, false, "-7", "holds, and said, kept"},
		"bad in another way":       {nil, false, "-9", "holds, and said, kept"},
		"when it was left out":     {nil, true, "-7", "holds, and said, kept"},
		"mended meanwhile":         {nil, false, "50", "holds"},
		"mended, and late":         {nil, true, "50", "holds"},
		"another object":           {func(k *Kept) { k.UID = "another" }, false, "-7", "left out, without"},
		"another object, and late": {func(k *Kept) { k.UID = "another" }, true, "-7", "left out, without"},
		"not good any more": {func(k *Kept) {
			k.Data = json.RawMessage(strings.Replace(string(k.Data), `"weight":100`, `"weight":-100`, 1))
		}, false, "-7", "left out, without"},
		"without content": {func(k *Kept) { k.Data = nil }, false, "-7", "left out, without"},
	} {
		var list []Kept
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		if tc.edit != nil {
			tc.edit(&list[0])
		}
		b := newBench(t)
		if !tc.late {
			b.s.Recall(list)
		}
		b.apply(service("billing"))
		b.apply(route("r", 2000, tc.now))
		e := b.next()
		if tc.late {
			b.s.Recall(list)
			if b.s.state.changed != 0 {
				e = b.next()
			}
		}
		if got := outcome(b, e); got != tc.want {
			t.Errorf("%s: %s, want %s: %v", name, got, tc.want, e.Findings)
		}
	}
}
