package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/explain"
	"github.com/seinemesh/seine/stat"
)

// Exit statuses of `seine explain --exit-code`.
const (
	exitRefused     = 2
	exitUnsupported = 3
)

type explainOptions struct {
	question   explain.Question
	claims     string
	files      []string
	meshConfig string
	namespace  string
	output     string
	control    controlFlags
	exitCode   bool
}

// explainCommand is `seine explain`: what happens to a request, and why.
func explainCommand() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain [-f DIR|FILE]... --from NAMESPACE/WORKLOAD [METHOD] URL",
		Short: "Say step by step what happens to a request, and why",
		Long: `Say which service, rule and destination a call takes, why each rule before did
not match, how it is encrypted and what lets it in. The answer comes from the
functions that the sidecars run: with -f of configuration files, without of the
running mesh.

URLs begin with http, grpc, https, tcp or tls. --from and --to take
NAMESPACE/WORKLOAD, or NAMESPACE[,label=value...] for a workload that nothing
describes. --to asks what a workload's own sidecar does at a port.

Exit status: 0 if the question was answered, 1 if it could not be. With
--exit-code, 2 for the outcomes reject and blackhole and 3 for unsupported.`,
		Example: `  seine explain -f mesh/ --from default/frontend GET http://billing-service:8080/ -H 'x-user: a'
  seine explain -f mesh/ --from default,app=frontend tcp://ledger:7000
  seine explain -f mesh/ --to default/billing-v1:8080 --from default/frontend
  seine explain --from default/frontend http://billing-service:8080/ -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 2 {
				return fmt.Errorf("explain takes a method and a URL, not %d arguments (%s): quote the URL, and put headers behind -H", len(args), strings.Join(args, " "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.files, "file", "f", nil, "`folder or file` with configuration; may be repeated; none: ask the running mesh")
	f.StringVar(&o.meshConfig, "mesh-config", "", "Istio's MeshConfig `file`")
	f.StringVarP(&o.namespace, "namespace", "n", "default", "namespace of resources that name none")
	f.StringVar(&o.question.From, "from", "", "the caller: `NAMESPACE/WORKLOAD`, NAMESPACE,label=value or gateway:NAMESPACE")
	f.StringVar(&o.question.To, "to", "", "ask at the receiving end: `NAMESPACE/WORKLOAD:PORT` or NAMESPACE,label=value:PORT")
	f.StringArrayVarP(&o.question.Headers, "header", "H", nil, "`'name: value'` of the request; may be repeated")
	f.StringVar(&o.question.Address, "address", "", "`IP:PORT` that the caller dials (default: what the mesh's DNS says)")
	f.StringVar(&o.question.SNI, "sni", "", "server name of a TLS connection")
	f.StringVar(&o.question.Principal, "principal", "", "verified identity of the caller, for --to")
	f.StringVar(&o.question.SourceIP, "source-ip", "", "address of the caller, for --to")
	f.StringVar(&o.claims, "claims", "", "`JSON` of a verified token")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	o.control.add(f, "control")
	// An error says that there is no such flag.
	_ = cmd.RegisterFlagCompletionFunc("from", completeLive(&o.control, func(p stat.Party) string { return p.Namespace + "/" + p.Workload }))
	f.BoolVar(&o.exitCode, "exit-code", false, "say the outcome by the exit status, too")
	return cmd
}

func (o *explainOptions) run(cmd *cobra.Command, args []string) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("-o %s: must be text or json", o.output)
	}
	if n := len(args); n > 0 {
		o.question.URL = args[n-1]
		if n > 1 {
			o.question.Method = args[0]
		}
	}
	if o.claims != "" {
		var claims map[string]any
		if err := json.Unmarshal([]byte(o.claims), &claims); err != nil {
			return fmt.Errorf("--claims: not a JSON object: %w", err)
		}
		o.question.Claims = json.RawMessage(o.claims)
	}
	answer, err := o.ask(cmd)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if o.output == "json" {
		enc := json.NewEncoder(escaped{out})
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(answer)
	} else {
		f, isFile := out.(*os.File)
		_, plain := os.LookupEnv("NO_COLOR") // https://no-color.org
		err = answer.WriteText(out, isFile && !plain && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd())))
	}
	if err != nil || !o.exitCode {
		return err
	}
	switch answer.Outcome {
	case explain.Reject, explain.Blackhole:
		return exitError{exitRefused}
	case explain.Unsupported:
		return exitError{exitUnsupported}
	}
	return nil
}

func (o *explainOptions) ask(cmd *cobra.Command) (*explain.Answer, error) {
	if len(o.files) == 0 {
		if o.meshConfig != "" {
			return nil, errors.New("--mesh-config goes with -f: the running mesh has its own")
		}
		return o.askRunning(cmd)
	}
	r, err := files.Load(files.Options{
		Paths: o.files, MeshConfig: o.meshConfig,
		Config: config.Options{Namespace: o.namespace, LocalInstances: true},
	})
	if err != nil {
		// A mesh would not take these files either; an answer from the rest of
		// them could mislead.
		if refused := (*config.RefusedError)(nil); errors.As(err, &refused) {
			return nil, fmt.Errorf("explain: %w; seine analyze lists all", err)
		}
		return nil, fmt.Errorf("explain: %w", err)
	}
	answer, err := explain.Explain(r.Snapshot, o.question)
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	return answer, nil
}

// maxExplainBody bounds the control plane's answer.
const maxExplainBody = 8 << 20

func (o *explainOptions) askRunning(cmd *cobra.Command) (*explain.Answer, error) {
	client, base, err := o.control.client(cmd.Context())
	if err != nil {
		return nil, fmt.Errorf("explain: %w; with -f DIR files are asked instead", err)
	}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(o.question)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodPost, base+"/api/v1/explain", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("explain: the control plane does not answer: %w; is a mesh running (seine up)? With -f DIR files are asked instead", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxExplainBody))
	if err != nil {
		return nil, fmt.Errorf("explain: the control plane's answer broke off: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var e explain.ErrorBody
		if json.Unmarshal(data, &e) == nil && e.Error != "" {
			return nil, fmt.Errorf("explain: %s", e.Error)
		}
		return nil, fmt.Errorf("explain: the control plane answers %s", res.Status)
	}
	var answer explain.Answer
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("explain: the control plane's answer is not understood: %w; is it of the same version as this program?", err)
	}
	return &answer, nil
}
