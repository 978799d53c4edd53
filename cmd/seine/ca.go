package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/ca/rotation"
)

// caCommand is `seine ca`: the authority of a running mesh.
func caCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "Show and replace the mesh's root certificate", Args: cobra.NoArgs,
		Long:    "Show the authority that signs the mesh's certificates, and replace its root while the mesh runs.",
		Example: "  seine ca status\n  seine ca rotate",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() }, // so that a word that is no command is refused
	}
	cmd.AddCommand(caStatusCommand(), caRotateCommand())
	return cmd
}

func caStatusCommand() *cobra.Command {
	var c controlFlags
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the roots, how far a rotation is, and what expires soon",
		Long: `Show where the root is kept, the roots that the mesh trusts and which of them signs,
how many proxies have acknowledged that, how far a rotation is and what it waits
for, and what expires within 30 days.`,
		Example: "  seine ca status\n  seine ca status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			client, base, err := c.client(cmd.Context())
			if err != nil {
				return fmt.Errorf("ca status: %w", err)
			}
			defer client.CloseIdleConnections()
			st, err := caStatus(cmd.Context(), client, base)
			if err != nil {
				return fmt.Errorf("ca status: %w", err)
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(st)
			}
			return st.WriteText(cmd.OutOrStdout(), time.Now())
		},
	}
	c.add(cmd.Flags(), "address")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func caRotateCommand() *cobra.Command {
	var c controlFlags
	var now, detach bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the mesh's root certificate while it runs",
		Long: `Make a new root and bring it in without a connection failing:

  prepare     the new root is made and kept; nobody trusts it
  distribute  every proxy trusts both roots; the old one signs
  activate    the new root signs, and proxies get certificates of it
  retire      every proxy trusts the new root alone

A step is taken when every connected proxy has acknowledged the one before. Proxies
that are not connected are waited for until their certificates have ended, or, with
--now, not at all. What this command shows goes on without it, and any replica of the
control plane goes on with it: seine ca status.`,
		Example: "  seine ca rotate\n  seine ca rotate --now --detach",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, base, err := c.client(cmd.Context())
			if err != nil {
				return fmt.Errorf("ca rotate: %w", err)
			}
			defer client.CloseIdleConnections()
			if err := beginRotation(cmd.Context(), client, base, now); err != nil {
				return fmt.Errorf("ca rotate: %w", err)
			}
			if detach {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "begun; seine ca status says how far it is")
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return followRotation(ctx, client, base, cmd.OutOrStdout())
		},
	}
	c.add(cmd.Flags(), "address")
	f := cmd.Flags()
	f.BoolVar(&now, "now", false, "do not wait for proxies that are not connected: they fail until they are")
	f.BoolVar(&detach, "detach", false, "begin, and do not wait for the end")
	f.DurationVar(&timeout, "timeout", 15*time.Minute, "how long to show the progress")
	return cmd
}

func caStatus(ctx context.Context, client *http.Client, base string) (*rotation.Status, error) {
	body, err := get(ctx, client, base+"/api/v1/ca")
	if err != nil {
		return nil, err
	}
	st := &rotation.Status{}
	if err := json.Unmarshal(body, st); err != nil {
		return nil, fmt.Errorf("the control plane's answer is not understood: %w; is it of the same version as this program?", err)
	}
	return st, nil
}

func beginRotation(ctx context.Context, client *http.Client, base string, now bool) error {
	body, err := json.Marshal(map[string]bool{"now": now})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/v1/ca/rotate", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the control plane does not answer: %w; is a mesh running (seine up), or does a flag name another one?", err)
	}
	defer res.Body.Close() // read only
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var said struct {
		Error string `json:"error"`
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err == nil && json.Unmarshal(text, &said) == nil && said.Error != "" {
		return fmt.Errorf("%s", said.Error)
	}
	return fmt.Errorf("the control plane answered %s", res.Status)
}

// followRotation shows each step and what it waits for until the rotation is over.
func followRotation(ctx context.Context, client *http.Client, base string, out io.Writer) error {
	begun := time.Now()
	shown := ""
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	failures := 0
	for {
		st, err := caStatus(ctx, client, base)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("ca rotate: it goes on without this command, which waits no longer: seine ca status says how far it is")
		case err != nil:
			// seined may be restarting: another one goes on with it.
			if failures++; failures > 20 {
				return fmt.Errorf("ca rotate: it goes on without this command: %w", err)
			}
		case st.Rotation.Step == rotation.Stable:
			_, err := fmt.Fprintf(out, "%6.1fs  done: every proxy trusts the new root alone\n", time.Since(begun).Seconds())
			return err
		default:
			failures = 0
			line := string(st.Rotation.Step)
			if st.Waiting != "" {
				line += ": " + st.Waiting
			}
			if line != shown {
				shown = line
				if _, err := fmt.Fprintf(out, "%6.1fs  %s\n", time.Since(begun).Seconds(), line); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
