package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/diagnose"
)

// exitSlow is the status of `seine diagnose --exit-code` where something is.
const exitSlow = 2

// diagnoseCommand is `seine diagnose`: my code, or the machine?
func diagnoseCommand() *cobra.Command {
	var s statOptions
	exit := false
	cmd := &cobra.Command{
		Use:   "diagnose",
		Short: "Say what makes requests slow: application, version, dependency, network or machine",
		Long: `Compare the latency of the last ten seconds with what is usual, and where it is
worse say what makes it so, with the evidence: the application itself, one
version of it, a service that it calls, the network between two sidecars, or the
machine underneath (CPU steal, CPU limit, I/O, memory, pressure).

The usual is learnt while traffic flows: three minutes after the control plane
started at the earliest. docs/diagnose.md states the method and its errors.`,
		Example: `  seine diagnose
  seine diagnose -o json --exit-code   status 2 if anything is slower than usual`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			slow, err := s.diagnose(cmd.Context(), cmd.OutOrStdout())
			if err == nil && slow && exit {
				return exitError{exitSlow}
			}
			return err
		},
	}
	f := cmd.Flags()
	s.control.add(f, "address")
	f.StringVarP(&s.output, "output", "o", "text", "text or json")
	f.BoolVar(&exit, "exit-code", false, "end with status 2 if anything is slower than usual")
	return cmd
}

// diagnose prints the report, and says whether there is anything in it.
func (s *statOptions) diagnose(ctx context.Context, out io.Writer) (slow bool, err error) {
	if s.output != "text" && s.output != "json" {
		return false, fmt.Errorf("diagnose: -o %s: must be text or json", s.output)
	}
	client, base, err := s.control.client(ctx)
	if err != nil {
		return false, fmt.Errorf("diagnose: %w", err)
	}
	defer client.CloseIdleConnections()
	body, err := get(ctx, client, base+"/api/v1/diagnose")
	if err != nil {
		return false, fmt.Errorf("diagnose: %w", err)
	}
	var r struct {
		At        time.Time            `json:"at"`
		Diagnoses []diagnose.Diagnosis `json:"diagnoses"`
		Learning  diagnose.Learning    `json:"learning"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return false, fmt.Errorf("diagnose: the control plane's answer is no report: %w; is it of the same version as this program?", err)
	}
	if s.output == "json" {
		_, err = escaped{out}.Write(append([]byte(strings.TrimSpace(string(body))), '\n'))
	} else {
		err = diagnose.WriteText(out, r.Diagnoses, r.Learning)
	}
	return len(r.Diagnoses) > 0, err
}
