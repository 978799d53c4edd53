package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/cluster"
)

// Exit statuses of `seine wait`.
const (
	exitTimeout = 2
	exitInvalid = 3
)

// waitEvery is how often the resource is looked at.
const waitEvery = 250 * time.Millisecond

type waitOptions struct {
	cluster   cluster.Options
	namespace string
	condition string
	output    string
	timeout   time.Duration
}

// waitCommand is `seine wait`: until the mesh does what a resource says.
func waitCommand() *cobra.Command {
	var o waitOptions
	cmd := &cobra.Command{
		Use:   "wait --for=programmed KIND/NAME",
		Short: "Wait until every proxy has acknowledged a resource",
		Long: `Wait until a resource of the cluster, as it is now, has a condition: programmed
(every connected proxy has acknowledged it), accepted (it is valid and taken), or
another that its status has. Of routes of the Gateway API, every parent's.

Exit status: 0 when the condition holds, 1 if there is no such resource or the
cluster does not answer, 2 when the time is over, 3 as soon as the resource is
found to be invalid, which waiting does not mend.

With -o json, one object: {"kind", "namespace", "name", "condition", "met",
"generation", "observedGeneration", "reason", "message", "waitedSeconds"}.`,
		Example: `  kubectl apply -f route.yaml && seine wait --for=programmed virtualservice/billing -n shop
  seine wait --for=accepted httproute/billing --timeout 10s -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("wait: name one resource as KIND/NAME, such as virtualservice/billing, not %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), cmd.OutOrStdout(), args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.condition, "for", "programmed", "`condition` to wait for: programmed, accepted, …")
	f.StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the resource")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	o.cluster.AddFlags(f)
	return cmd
}

// waited is what `seine wait -o json` prints.
type waited struct {
	Kind       string  `json:"kind"`
	Namespace  string  `json:"namespace,omitempty"`
	Name       string  `json:"name"`
	Condition  string  `json:"condition"`
	Met        bool    `json:"met"`
	Generation int64   `json:"generation"`
	Observed   int64   `json:"observedGeneration"`
	Reason     string  `json:"reason,omitempty"`
	Message    string  `json:"message,omitempty"`
	Seconds    float64 `json:"waitedSeconds"`
}

func (o *waitOptions) run(ctx context.Context, out io.Writer, what string) error {
	kindName, name, ok := strings.Cut(what, "/")
	switch {
	case !ok || kindName == "" || name == "" || strings.Contains(name, "/"):
		return fmt.Errorf("wait: %q is not KIND/NAME, such as virtualservice/billing", what)
	case o.output != "text" && o.output != "json":
		return fmt.Errorf("wait: -o %s: must be text or json", o.output)
	case o.condition == "":
		return errors.New("wait: --for must name a condition, such as programmed")
	}
	cfg, err := o.cluster.Config()
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	kind, err := cluster.FindKind(cfg, kindName)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	return o.poll(ctx, out, waited{Kind: kind.Name, Namespace: o.namespace, Name: name, Condition: strings.ToLower(o.condition)},
		func(ctx context.Context, condition string) (*cluster.Progress, error) {
			return cluster.ConditionOf(ctx, cfg, kind, o.namespace, name, condition)
		})
}

// poll asks until the condition holds, the resource is invalid, or the time is over.
func (o *waitOptions) poll(ctx context.Context, out io.Writer, w waited, ask func(ctx context.Context, condition string) (*cluster.Progress, error)) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	start := time.Now()
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	var last *cluster.Progress
	for {
		p, err := ask(ctx, o.condition)
		var accepted *cluster.Progress
		if err == nil && !p.Done() {
			accepted, err = ask(ctx, "accepted")
		}
		switch {
		case err == nil:
			last = p
		case ctx.Err() == nil:
			return fmt.Errorf("wait: %w", err)
		case last == nil:
			return fmt.Errorf("wait: the cluster did not answer within %s: %w", o.timeout, err)
		}
		w.Seconds, w.Generation, w.Observed, w.Reason, w.Message = time.Since(start).Seconds(), last.Generation, last.Observed, last.Reason, last.Message
		switch {
		case err == nil && p.Done():
			w.Met = true
			return o.say(out, &w, "has the condition", 0)
		case err == nil && accepted.Known && !accepted.True && accepted.Observed >= accepted.Generation && (accepted.Reason == "Invalid" || accepted.Reason == "UnsupportedValue"):
			w.Reason, w.Message = accepted.Reason, accepted.Message
			return o.say(out, &w, "is invalid, and will not have the condition", exitInvalid)
		}
		select {
		case <-ctx.Done():
			if !last.Known {
				w.Message = "its status does not have this condition: is a control plane running there (seine check)?"
			}
			return o.say(out, &w, "does not yet have the condition", exitTimeout)
		case <-tick.C:
		}
	}
}

func (o *waitOptions) say(out io.Writer, w *waited, how string, code int) error {
	if o.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(w); err != nil {
			return err
		}
	} else {
		of := w.Name
		if w.Namespace != "" {
			of = w.Namespace + "/" + w.Name
		}
		line := fmt.Sprintf("%s %s %s %s after %.1f s", w.Kind, of, how, w.Condition, w.Seconds)
		if w.Message != "" {
			line += ": " + w.Message
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	if code != 0 {
		return exitError{code}
	}
	return nil
}
