package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/local/rundir"
)

var errNoControl = errors.New("there is no control plane to ask: no mesh runs on this machine (seine up), and no kubeconfig says which cluster to ask (--kubeconfig, --context)")

// controlTimeout bounds one question to the control plane.
const controlTimeout = 10 * time.Second

// controlFlags say which control plane a command asks. Without any of them it is
// that of `seine up` if one runs on this machine, else that of the cluster that
// kubectl would speak to.
type controlFlags struct {
	socket, address string
	cluster         cluster.Options
	namespace       string // of the control plane in the cluster
}

// add adds the flags; address is the name of the one for a control plane's address.
func (c *controlFlags) add(f *pflag.FlagSet, address string) {
	f.StringVar(&c.socket, "socket", "", "control plane's Unix socket (default: that of the running \"seine up\")")
	f.StringVar(&c.address, address, "", "`address` of a control plane's API, such as http://127.0.0.1:15016, instead of a socket or a cluster")
	c.cluster.AddFlags(f)
	f.StringVar(&c.namespace, "system-namespace", cluster.Namespace, "namespace of the cluster's control plane")
}

// base is the address as a URL.
func (c *controlFlags) base() string {
	if strings.Contains(c.address, "://") {
		return c.address
	}
	return "http://" + c.address
}

// target is one control plane, or one replica of it.
type target struct {
	name string // of the pod; "": not in a cluster
	*http.Client
	base string // what URLs begin with
}

// client returns how to reach the control plane and the URL to begin with.
func (c *controlFlags) client(ctx context.Context) (*http.Client, string, error) {
	list, err := c.targets(ctx, false)
	if err != nil {
		return nil, "", err
	}
	return list[0].Client, list[0].base, nil
}

// targets returns the control plane or, if all are wanted, its replicas: each
// knows only the proxies that are connected to it.
func (c *controlFlags) targets(ctx context.Context, all bool) ([]target, error) {
	inCluster := c.cluster != cluster.Options{}
	switch {
	case c.address != "" && c.socket != "":
		return nil, errors.New("give --socket or an address, not both")
	case inCluster && (c.address != "" || c.socket != ""):
		return nil, errors.New("give --kubeconfig and --context, or --socket or an address, not both")
	case c.address != "":
		base := c.base()
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || u.Scheme != "http" {
			return nil, fmt.Errorf("the address %q is not http://HOST:PORT", c.address)
		}
		return []target{{"", &http.Client{Timeout: controlTimeout, Transport: carrier(base)}, strings.TrimSuffix(base, "/")}}, nil
	case c.socket != "":
		return []target{overSocket(c.socket)}, nil
	case !inCluster && answers(defaultSocket()):
		return []target{overSocket(defaultSocket())}, nil
	}
	cfg, err := c.cluster.Config()
	if errors.Is(err, cluster.ErrNoCluster) && !inCluster {
		return nil, errNoControl
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	pods, err := cluster.Replicas(ctx, cfg, c.namespace)
	if err != nil {
		return nil, err
	}
	if !all {
		pods = pods[:1]
	}
	var out []target
	for _, p := range pods {
		out = append(out, target{p, cluster.Client(cfg, c.namespace, p, controlTimeout), "http://seined"})
	}
	return out, nil
}

func overSocket(path string) target {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	return target{"", &http.Client{Timeout: controlTimeout, Transport: t}, "http://seined"}
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// defaultSocket is where `seine up` puts the control plane's socket.
func defaultSocket() string { return rundir.Socket(rundir.Default()) }
