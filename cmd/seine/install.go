package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/install"
	"github.com/seinemesh/seine/install/deploy"
	"github.com/seinemesh/seine/version"
)

// lookTimeout bounds a look at the cluster while manifests are written.
const lookTimeout = 10 * time.Second

// installation is what the commands around an installation have in common.
type installation struct {
	cluster   cluster.Options
	namespace string
	revision  string
	files     []string
	settings  []string
	timeout   time.Duration
}

func (i *installation) flags(cmd *cobra.Command, values bool) {
	f := cmd.Flags()
	i.cluster.AddFlags(f)
	f.StringVarP(&i.namespace, "namespace", "n", install.Namespace, "the control plane's namespace")
	f.StringVar(&i.revision, "revision", "", "which control plane of several side by side (default: \"default\", or the value revision)")
	f.DurationVar(&i.timeout, "timeout", 5*time.Minute, "how long to wait altogether")
	if values {
		f.StringArrayVarP(&i.files, "values", "f", nil, "`file` of values (install/chart/values.yaml lists them); may be repeated")
		f.StringArrayVar(&i.settings, "set", nil, "value, `KEY=VALUE`; may be repeated")
	}
}

// values are what files and settings say, and settle the revision.
func (i *installation) values() (map[string]any, error) {
	v, err := install.ParseValues(i.files, i.settings, os.ReadFile)
	if err != nil {
		return nil, err
	}
	if i.revision != "" {
		v["revision"] = i.revision
	}
	i.revision = install.Revision(v)
	if i.revision == install.DefaultRevision {
		delete(v, "revision")
	}
	return v, nil
}

// work connects; say may be nil.
func (i *installation) work(say func(deploy.Event)) (*deploy.Work, error) {
	cfg, err := i.cluster.Config()
	if err != nil {
		return nil, err
	}
	cfg.WarningHandler = nil
	c, err := deploy.Connect(cfg)
	if err != nil {
		return nil, err
	}
	if say == nil {
		say = func(deploy.Event) {}
	}
	revision := i.revision
	if revision == "" {
		revision = install.DefaultRevision
	}
	return &deploy.Work{Cluster: c, Namespace: i.namespace, Revision: revision, Version: version.Version, Say: say, Now: time.Now}, nil
}

func (i *installation) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, i.timeout, fmt.Errorf("not within %s (--timeout)", i.timeout))
}

func installCommand() *cobra.Command {
	var (
		i      installation
		output string
		apply  bool
		crds   string
	)
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the control plane in a cluster, or write its manifests for kubectl",
		Long: `Install the control plane in the cluster that kubectl would use: custom resource
definitions first, waited for until they are established, then the components,
until all are ready. Each wait says what it waits for and why. It may be run again
at any time, and goes on where it stopped.

Where standard output is a pipe or a file, or with -o, the manifests are written
there instead and nothing is changed: "seine install | kubectl apply -f -". In a
script whose output is caught, say --apply to install.

Definitions that are in the cluster already and that somebody else owns (Istio, a
helm release) are left alone: the manifests, too, leave them out if the cluster
can be asked. --crds all or none asks no cluster and always writes the same bytes.

Exit status: 0 when everything is ready, 1 otherwise.

With --apply -o json, one object: {"release", "namespace", "revision", "version",
"definitionsApplied", "definitionsLeft", "tookNanoseconds"}.`,
		Example: `  seine check --pre && seine install
  seine install | kubectl apply -f -
  seine install --set ha=true --set image.registry=registry.example.com
  seine install --crds all -o yaml > seine.yaml      the same bytes everywhere
  seine install --revision canary                    beside the one that is there`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch crds {
			case "missing", "all", "none":
			default:
				return fmt.Errorf("--crds %s: must be missing, all or none", crds)
			}
			out := cmd.OutOrStdout()
			write := !apply && (output != "" || redirected(out))
			switch {
			case write && output == "":
				output = "yaml"
			case !write && output == "":
				output = "text"
			}
			if write && output != "yaml" && output != "json" || !write && output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be yaml or json for manifests; with --apply text or json", output)
			}
			values, err := i.values()
			if err != nil {
				return err
			}
			if write {
				return i.write(cmd.Context(), values, crds, output, out, cmd.ErrOrStderr())
			}
			if crds != "missing" {
				return errors.New("--crds goes with manifests: add -o yaml")
			}
			return i.apply(cmd, values, output, (*deploy.Work).Install)
		},
	}
	i.flags(cmd, true)
	f := cmd.Flags()
	f.BoolVar(&apply, "apply", false, "install, wherever standard output goes")
	f.StringVarP(&output, "output", "o", "", "yaml or json: write manifests in this form; with --apply text or json: the report")
	f.StringVar(&crds, "crds", "missing", "custom resource definitions to write: missing (in the cluster), all or none")
	return cmd
}

// apply does an installation or upgrade with its progress, and reports.
func (i *installation) apply(cmd *cobra.Command, values map[string]any, output string, do func(*deploy.Work, context.Context, map[string]any) (*deploy.Result, error)) error {
	p := newProgress(cmd.ErrOrStderr())
	w, err := i.work(p.event)
	if err != nil {
		return err
	}
	ctx, cancel := i.within(cmd.Context())
	defer cancel()
	r, err := do(w, ctx, values)
	p.end()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if output == "json" {
		return json.NewEncoder(out).Encode(r)
	}
	for _, l := range r.Left {
		fmt.Fprintf(out, "left alone: %s\n", l)
	}
	_, err = fmt.Fprintf(out, "ready in %s: release %d of revision %s, version %s, in namespace %s\n\n%s", seconds(r.Took), r.Release, r.Revision, r.Version, r.Namespace, next(r.Revision))
	return err
}

// next is what people do next.
func next(revision string) string {
	label := "seine.dev/inject=enabled"
	if revision != install.DefaultRevision {
		label = "seine.dev/revision=" + revision
	}
	return fmt.Sprintf(`Next, for each namespace that is to be in the mesh:
  kubectl label namespace NAME %s
  kubectl rollout restart -n NAME deployment
  seine check
`, label)
}

// write writes manifests. A cluster is asked only for the definitions that it has.
func (i *installation) write(ctx context.Context, values map[string]any, crds, output string, out, errs io.Writer) error {
	w := &deploy.Work{Namespace: i.namespace, Version: version.Version}
	objects, err := w.Render(ctx, values)
	if err != nil {
		return err
	}
	var definitions []*unstructured.Unstructured
	if crds != "none" {
		if definitions, err = install.CRDs(); err != nil {
			return err
		}
	}
	if crds == "missing" {
		definitions = i.leaveOut(ctx, definitions, errs)
	}
	// the namespace and the definitions first: what follows needs them
	objects = append(definitions, objects...)
	if output == "json" {
		return install.WriteJSON(out, objects)
	}
	return install.WriteYAML(out, objects)
}

// leaveOut drops the definitions that the cluster has from somebody else. A
// cluster that cannot be asked leaves all of them in.
func (i *installation) leaveOut(ctx context.Context, definitions []*unstructured.Unstructured, errs io.Writer) []*unstructured.Unstructured {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	w, err := i.work(nil)
	var there []deploy.CRD
	if err == nil {
		there, err = w.Cluster.CRDs(ctx)
	}
	if err != nil {
		fmt.Fprintf(errs, "seine: all definitions are written: the cluster cannot be asked for those that it has (%v)\n", err)
		return definitions
	}
	definitions = nil
	for _, d := range there {
		if d.Apply {
			definitions = append(definitions, d.Object)
			continue
		}
		fmt.Fprintf(errs, "seine: left out: %s, which belongs to %s\n", d.Object.GetName(), d.Owner)
	}
	return definitions
}

func upgradeCommand() *cobra.Command {
	var (
		i        installation
		yes      bool
		dry      bool
		reset    bool
		rollback bool
		output   string
	)
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Show what would change in an installation, and change it",
		Long: `Upgrade the control plane to this program's version, and to other values. First
it shows the difference to what runs, by the API server's own dry run, and asks.
The values of the last release stay unless --set or -f say otherwise;
--reset-values forgets them.

--rollback goes back to the last release before this one that became ready. The
old pods serve until the new ones are ready; so a failed upgrade harms nobody.

To move namespace by namespace instead, install the new version beside the old one
(seine install --revision NAME), label namespaces seine.dev/revision=NAME, restart
their workloads, and uninstall the old revision.

Exit status: 0 when everything is ready or there is nothing to change, 1 otherwise;
with --dry-run 0 if nothing would change and 2 if something would.`,
		Example: `  seine upgrade --dry-run
  seine upgrade --set ha=true
  seine upgrade --rollback --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			if rollback && (len(i.files) > 0 || len(i.settings) > 0 || reset) {
				return errors.New("--rollback takes the old release's values: leave out --set, -f and --reset-values")
			}
			values, err := i.values()
			if err != nil {
				return err
			}
			w, err := i.work(nil)
			if err != nil {
				return err
			}
			ctx, cancel := i.within(cmd.Context())
			defer cancel()
			var objects []*unstructured.Unstructured
			do := (*deploy.Work).Upgrade
			if rollback {
				to, err := w.Previous(ctx)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "back to release %d: version %s of %s\n", to.Number, to.Version, to.Time.Local().Format(time.DateTime))
				objects = to.Objects
				do = func(w *deploy.Work, ctx context.Context, _ map[string]any) (*deploy.Result, error) {
					return w.Rollback(ctx, to)
				}
			} else {
				last, err := w.Current(ctx)
				if err != nil {
					return err
				}
				if last == nil {
					return fmt.Errorf("%w in namespace %s: `seine install` installs", deploy.ErrNotInstalled, i.namespace)
				}
				if !reset {
					values = loader.MergeMaps(last.Values, values)
				}
				if objects, err = w.Render(ctx, values); err != nil {
					return err
				}
			}
			changes, err := w.Changes(ctx, objects)
			if err != nil {
				return err
			}
			if err := showChanges(cmd.OutOrStdout(), changes, output, dry); err != nil {
				return err
			}
			if dry {
				if len(changes) > 0 {
					return exitError{2}
				}
				return nil
			}
			if len(changes) > 0 && !yes {
				if err := confirm(cmd, fmt.Sprintf("Change these %d objects?", len(changes))); err != nil {
					return err
				}
			}
			return i.apply(cmd, values, output, do)
		},
	}
	i.flags(cmd, true)
	f := cmd.Flags()
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&dry, "dry-run", false, "show the difference and change nothing")
	f.BoolVar(&reset, "reset-values", false, "forget the values of the last release")
	f.BoolVar(&rollback, "rollback", false, "go back to the release before")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// showChanges writes the difference that an upgrade makes.
func showChanges(out io.Writer, changes []deploy.Change, output string, dry bool) error {
	if output == "json" {
		if !dry {
			return nil // the report alone
		}
		return json.NewEncoder(out).Encode(map[string]any{"changes": changes})
	}
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%s %s\n", c.Do, c.Name)
		for line := range strings.Lines(strings.TrimSpace(c.Diff)) {
			b.WriteString("    " + line)
		}
		if c.Diff != "" {
			b.WriteByte('\n')
		}
	}
	if len(changes) == 0 {
		b.WriteString("nothing would change\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func uninstallCommand() *cobra.Command {
	var (
		i      installation
		o      deploy.UninstallOptions
		yes    bool
		output string
	)
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take an installation out of the cluster",
		Long: `Remove a revision's control plane and, with the last one, everything that Seine
put into the cluster: webhooks, roles, trust bundles, definitions, the namespace.
It refuses while pods with sidecars run, and names them; --force goes on.

Kept, and said so: definitions that somebody else owns or that still have
resources, and a namespace into which others put something. --purge removes those
of ours with all that is in them.

Exit status: 0 when it is gone, 1 otherwise.
With -o json, one object: {"removed": [NAME], "kept": [REASON]}.`,
		Example: `  seine uninstall
  seine uninstall --revision canary
  seine uninstall --yes --force --purge      everything, whatever it breaks`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %s: must be text or json", output)
			}
			p := newProgress(cmd.ErrOrStderr())
			w, err := i.work(p.event)
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd, fmt.Sprintf("Remove revision %s of Seine from %s?", w.Revision, i.namespace)); err != nil {
					return err
				}
			}
			ctx, cancel := i.within(cmd.Context())
			defer cancel()
			r, err := w.Uninstall(ctx, o)
			p.end()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if output == "json" {
				return json.NewEncoder(out).Encode(r)
			}
			for _, k := range r.Kept {
				fmt.Fprintf(out, "kept: %s\n", k)
			}
			_, err = fmt.Fprintf(out, "removed %d objects\n", len(r.Removed))
			return err
		},
	}
	i.flags(cmd, false)
	f := cmd.Flags()
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&o.Force, "force", false, "go on while pods with sidecars run")
	f.BoolVar(&o.Purge, "purge", false, "also delete our definitions that have resources, with these, and a namespace with others' objects")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// confirm asks a person; where nobody can answer, it says how to go on.
func confirm(cmd *cobra.Command, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return errors.New("nobody is there to be asked: add --yes")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); err != nil || a != "y" && a != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// redirected reports whether out is a pipe or a file: what is written there is
// for another program.
func redirected(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return true
	}
	st, err := f.Stat()
	return err == nil && (st.Mode()&os.ModeNamedPipe != 0 || st.Mode().IsRegular())
}
