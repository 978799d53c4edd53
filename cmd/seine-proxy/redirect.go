//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/seinemesh/seine/capture"
)

const redirectUsage = `Usage: seine-proxy redirect [flags]

Write the nftables rules that bring this network namespace's TCP connections to
the sidecar in it, instead of those of an earlier call. It needs CAP_NET_ADMIN
and nothing else. Lists are separated by commas.

  --include-outbound-cidrs LIST   only to these; * (default): all; empty: none
  --exclude-outbound-cidrs LIST
  --include-outbound-ports LIST   to these everywhere
  --exclude-outbound-ports LIST
  --include-inbound-ports LIST    only these; * (default): all; empty: none
  --exclude-inbound-ports LIST
  --exclude-interfaces LIST       network devices left alone
  --exclude-uids LIST             users whose connections are left alone
  --dns-port PORT                 where questions to port 53 go, UDP and TCP; none: nowhere
  --status-port PORT              the sidecar's port of health and metrics (15020)
`

// redirect is the init container's work.
func redirect(args []string, out io.Writer) error {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "-help") {
		_, err := io.WriteString(out, redirectUsage)
		return err
	}
	rules, err := capture.ParseFlags(args)
	if err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	if err := capture.Install(capture.Here, rules); err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	if err := capture.AddSource(); err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	_, err = fmt.Fprintln(out, "redirect: rules are in place:", strings.Join(append([]string{"outbound to 15001, inbound to 15006"}, args...), " "))
	return err
}
