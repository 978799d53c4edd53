package main

import (
	"context"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/dashboard"
	"github.com/seinemesh/seine/local/rundir"
)

// dashboardCommand is `seine dashboard`: the mesh in a browser.
func dashboardCommand() *cobra.Command {
	var d dashboardOptions
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Open the web dashboard of a running mesh",
		Long: `Open the dashboard of the mesh that "seine up" runs on this machine, or else of
the cluster that kubectl would speak to: then a port of this machine's loopback
address is forwarded to the control plane until Ctrl-C.

The link holds a token of this run, for every user of this machine reaches a
loopback address. The dashboard changes nothing.`,
		Example: `  seine dashboard
  seine dashboard --open=false          print the link alone
  seine dashboard --context prod --port 9000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return fmt.Errorf("dashboard: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	d.control.add(f, "address")
	f.BoolVar(&d.open, "open", true, "open it in a browser")
	f.Uint16Var(&d.port, "port", 0, "port of this machine's loopback address (default: any that is free)")
	return cmd
}

type dashboardOptions struct {
	control controlFlags
	open    bool
	port    uint16
}

func (d *dashboardOptions) run(ctx context.Context, out, says io.Writer) error {
	if link := localLink(); link != "" && d.control == (controlFlags{namespace: d.control.namespace}) && answers(defaultSocket()) {
		fmt.Fprintln(out, link)
		if d.open {
			defer d.browse(says, link)()
			settle(ctx)
		}
		return nil
	}
	dial, err := d.dial(ctx)
	if err != nil {
		return err
	}
	c, err := dial(ctx) // a mesh that cannot be reached is said at once
	if err != nil {
		return err
	}
	_ = c.Close()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(d.port))))
	if err != nil {
		return fmt.Errorf("%w: choose another --port", err)
	}
	token := dashboard.NewToken()
	link := dashboard.Link(l.Addr().String(), token)
	fmt.Fprintln(out, link)
	fmt.Fprintln(says, "Ctrl-C ends it")
	if d.open {
		defer d.browse(says, link)()
	}
	return dashboard.Serve(ctx, l, dashboard.Handler(dashboard.Options{Dial: dial, Token: token}))
}

// settleFor is how long the file that leads a browser to a link is left for it.
const settleFor = 3 * time.Second

func settle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(settleFor):
	}
}

// dial returns how to connect to the control plane.
func (d *dashboardOptions) dial(ctx context.Context) (func(context.Context) (net.Conn, error), error) {
	c := &d.control
	plain := func(network, address string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: controlTimeout}).DialContext(ctx, network, address)
		}
	}
	inCluster := c.cluster != cluster.Options{}
	switch {
	case c.address != "":
		u, err := url.Parse(c.base())
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("the address %q is not http://HOST:PORT", c.address)
		}
		return plain("tcp", u.Host), nil
	case c.socket != "":
		return plain("unix", c.socket), nil
	case !inCluster && answers(defaultSocket()):
		return plain("unix", defaultSocket()), nil
	}
	if _, err := c.targets(ctx, false); err != nil { // says what is missing
		return nil, err
	}
	cfg, err := c.cluster.Config()
	if err != nil {
		return nil, err
	}
	f := &forwarder{cfg: cfg, namespace: c.namespace}
	return f.dial, nil
}

// forwarder connects to a replica of the control plane, and to another one when
// that is gone.
type forwarder struct {
	cfg       *rest.Config
	namespace string

	mu  sync.Mutex
	pod string
}

func (f *forwarder) dial(ctx context.Context) (net.Conn, error) {
	f.mu.Lock()
	pod := f.pod
	f.mu.Unlock()
	if pod != "" {
		if c, err := cluster.Forward(ctx, f.cfg, f.namespace, pod, cluster.APIPort); err == nil {
			return c, nil
		}
	}
	pods, err := cluster.Replicas(ctx, f.cfg, f.namespace)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Forward(ctx, f.cfg, f.namespace, pods[0], cluster.APIPort)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.pod = pods[0]
	f.mu.Unlock()
	return c, nil
}

// browse opens a link in a browser, by way of a file that only this user reads:
// programs' arguments are everybody's to see. The function that it returns takes
// the file away.
func (d *dashboardOptions) browse(says io.Writer, link string) (leave func()) {
	leave = func() {}
	program := map[string]string{"darwin": "open", "linux": "xdg-open"}[runtime.GOOS]
	path, err := exec.LookPath(program)
	if err != nil {
		fmt.Fprintln(says, "no browser was found: open the link yourself")
		return leave
	}
	dir, err := os.MkdirTemp("", "seine-dashboard-") // 0700
	if err != nil {
		fmt.Fprintln(says, "the browser is not opened:", err)
		return leave
	}
	leave = func() { _ = os.RemoveAll(dir) }
	page := filepath.Join(dir, "dashboard.html")
	text := `<!doctype html><meta charset="utf-8"><title>Seine</title><meta http-equiv="refresh" content="0; url=` + html.EscapeString(link) + `">`
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		fmt.Fprintln(says, "the browser is not opened:", err)
		return leave
	}
	cmd := exec.Command(path, page)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(says, "the browser is not opened:", err)
		return leave
	}
	go func() { _ = cmd.Wait() }()
	return leave
}

// localLink is the link of the mesh that `seine up` runs; "": none does.
func localLink() string {
	b, err := os.ReadFile(rundir.Dashboard(rundir.Default()))
	if err != nil || len(b) > 512 {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// bearer adds the token of the mesh that `seine up` runs to what is asked at its
// address.
type bearer struct{ token string }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return http.DefaultTransport.RoundTrip(r)
}

// carrier is how an address is asked: with a token if it is that of `seine up`.
func carrier(base string) http.RoundTripper {
	if at, token, ok := strings.Cut(localLink(), "/#token="); ok && at == strings.TrimSuffix(base, "/") {
		return bearer{token}
	}
	return http.DefaultTransport
}
