// Command seine is what a person runs: it brings a mesh up on this machine,
// checks and explains configuration, and shows what a running mesh does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/version"
)

// exitError ends the program with a code of its own; its command has already
// printed what there is to say.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	var exit exitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.code)
	default:
		fmt.Fprintln(os.Stderr, "seine:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "seine",
		Short: "A service mesh that is easy to handle",
		Long: `Seine is a service mesh: every call between your services is encrypted,
routed, protected, measured and explained without a change to their code.`,
		Example: `  seine up examples/billing              run a mesh on this machine, without a cluster
  seine analyze -f mesh/                 check configuration before it is applied
  seine explain -f mesh/ --from shop/frontend GET http://billing-service:8080/
  seine install                          the control plane, into a cluster
  seine stat                             who calls whom, how fast, how well, how safely`,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(
		versionCommand(), upCommand(), statCommand(), edgesCommand(), tapCommand(), topCommand(), routesCommand(), authzCommand(), logsCommand(), dashboardCommand(), proxiesCommand(), caCommand(), waitCommand(), analyzeCommand(), explainCommand(), diagnoseCommand(),
		injectCommand(), checkCommand(), installCommand(), upgradeCommand(), uninstallCommand(),
	)
	return cmd
}

// versionCommand says what --version says, for those who look for it there.
func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "seine version", version.String())
			return err
		},
	}
}
