package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/seinemesh/seine/cluster"
)

func TestWait(t *testing.T) {
	yes := &cluster.Progress{Generation: 2, Observed: 2, Known: true, True: true, Message: "3 of 3"}
	old := &cluster.Progress{Generation: 2, Observed: 1, Known: true, True: true}
	no := &cluster.Progress{Generation: 2, Observed: 2, Known: true, Reason: "Invalid", Message: "spec.hosts: no"}
	for name, tc := range map[string]struct {
		programmed []*cluster.Progress // the last one stays
		accepted   *cluster.Progress
		err        error
		code       int
		says       string
	}{
		"at once":              {[]*cluster.Progress{yes}, yes, nil, 0, "has the condition programmed"},
		"after a while":        {[]*cluster.Progress{{Generation: 2}, old, yes}, yes, nil, 0, "3 of 3"},
		"of an old generation": {[]*cluster.Progress{old}, old, nil, exitTimeout, "does not yet have"},
		"nobody writes it":     {[]*cluster.Progress{{Generation: 2}}, &cluster.Progress{}, nil, exitTimeout, "is a control plane running"},
		"invalid":              {[]*cluster.Progress{no}, no, nil, exitInvalid, "is invalid"},
		"invalid before":       {[]*cluster.Progress{old, yes}, &cluster.Progress{Generation: 2, Observed: 1, Known: true, Reason: "Invalid"}, nil, 0, "has the condition"},
		"an invalid route":     {[]*cluster.Progress{no}, &cluster.Progress{Generation: 2, Observed: 2, Known: true, Reason: "UnsupportedValue", Message: "no HTTP there"}, nil, exitInvalid, "no HTTP there"},
		"a parent to come":     {[]*cluster.Progress{no, yes}, &cluster.Progress{Generation: 2, Observed: 2, Known: true, Reason: "NoMatchingParent"}, nil, 0, "has the condition"},
		"no such thing":        {nil, nil, errors.New("not found"), 1, "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			o := waitOptions{condition: "programmed", output: "text", timeout: 600 * time.Millisecond}
			if tc.code == 0 {
				o.timeout = time.Minute
			}
			var out bytes.Buffer
			i := 0
			err := o.poll(t.Context(), &out, waited{Kind: "VirtualService", Namespace: "shop", Name: "r", Condition: "programmed"}, func(_ context.Context, condition string) (*cluster.Progress, error) {
				if tc.err != nil {
					return nil, tc.err
				}
				if condition == "accepted" {
					return tc.accepted, nil
				}
				p := tc.programmed[min(i, len(tc.programmed)-1)]
				i++
				return p, nil
			})
			code := 0
			var exit exitError
			if errors.As(err, &exit) {
				code = exit.code
			} else if err != nil {
				code = 1
				out.WriteString(err.Error())
			}
			if code != tc.code || !strings.Contains(out.String(), tc.says) {
				t.Errorf("exit %d, said %q", code, out.String())
			}
		})
	}
	o := waitOptions{condition: "programmed", output: "json", timeout: time.Minute}
	var out bytes.Buffer
	if err := o.poll(t.Context(), &out, waited{Kind: "VirtualService", Name: "r"}, func(context.Context, string) (*cluster.Progress, error) { return yes, nil }); err != nil {
		t.Fatal(err)
	}
	var w waited
	if err := json.Unmarshal(out.Bytes(), &w); err != nil || !w.Met || w.Generation != 2 || w.Observed != 2 {
		t.Errorf("%v %s", err, out.String())
	}
	for _, args := range [][]string{{"x"}, {"/x"}, {"a/b/c"}, {"vs/x", "-o", "xml"}, {"vs/x", "--for="}} {
		cmd := waitCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
