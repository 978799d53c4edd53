package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/seinemesh/seine/capture"
	"github.com/seinemesh/seine/inject"
)

// Versions of the specification that the plugin speaks. It passes results on
// as they are, so that the old ones cost nothing.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// Plugin is the plugin at work. Its methods are the specification's operations.
type Plugin struct {
	Out io.Writer // the result
	// Pod asks for a pod with what the kubeconfig at path says.
	Pod func(ctx context.Context, path, namespace, name string) (*corev1.Pod, error)
}

// Ask is a Plugin's Pod: the API server's answer.
func Ask(ctx context.Context, path, namespace, name string) (*corev1.Pod, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: the pod of DaemonSet seine-cni on this node writes it", err)
	}
	a, err := ParseKubeconfig(text)
	if err != nil {
		return nil, err
	}
	return a.Pod(ctx, namespace, name)
}

// config is what the runtime hands a plugin.
type config struct {
	Settings
	PrevResult json.RawMessage `json:"prevResult"`
}

// Add puts the redirect into the pod's network namespace, if it is to have one,
// and hands the previous plugin's result on unchanged.
func (p *Plugin) Add(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if len(c.PrevResult) == 0 || string(c.PrevResult) == "null" {
		return types.NewError(types.ErrInvalidNetworkConfig, "seine-cni makes no network: it must come after a plugin that does", "")
	}
	rules, err := p.rules(args, c)
	if err != nil {
		return later(err)
	}
	if rules != nil {
		err := within(args.Netns, func() error {
			if err := capture.Install(capture.Here, *rules); err != nil {
				return err
			}
			return capture.AddSource()
		})
		if err != nil {
			return later(err)
		}
	}
	_, err = p.Out.Write(c.PrevResult)
	return err
}

// Check fails if a pod that is to have the redirect has lost it.
func (p *Plugin) Check(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	rules, err := p.rules(args, c)
	if err != nil {
		return later(err)
	}
	if rules == nil {
		return nil
	}
	return within(args.Netns, func() error {
		if there, err := capture.Installed(); err != nil || there {
			return err
		}
		return types.NewError(types.ErrUnknown, "the pod's network namespace has no nftables table "+capture.TableName+": its connections are not redirected to its sidecar", "delete the pod")
	})
}

// Del has nothing to do: the rules go with the network namespace.
func (*Plugin) Del(*skel.CmdArgs) error { return nil }

// GC has nothing to do: nothing outlives a network namespace.
func (*Plugin) GC(*skel.CmdArgs) error { return nil }

// Status is always good: a node is not unfit because the mesh waits for a token.
func (*Plugin) Status(*skel.CmdArgs) error { return nil }

// later has the runtime, and so the kubelet, try the pod again.
func later(err error) error {
	return types.NewError(types.ErrTryAgainLater, "seine-cni: "+err.Error(), "")
}

func parseConfig(stdin []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "seine-cni: network configuration: "+err.Error(), "")
	}
	return c, nil
}

// rules are what the pod of args is to have; nil: it is left alone.
func (p *Plugin) rules(args *skel.CmdArgs, c *config) (*capture.Rules, error) {
	id := parseArgs(args.Args)
	if id.namespace == "" || id.name == "" || slices.Contains(c.Skip, id.namespace) {
		return nil, nil // no pod of Kubernetes, or one that never has a sidecar
	}
	pod, err := p.Pod(context.Background(), c.Kubeconfig, id.namespace, id.name)
	if err != nil {
		return nil, err
	}
	r, err := decide(pod, id.uid)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", id.namespace, id.name, err)
	}
	return r, nil
}

// decide is the decision about a pod: the rules that it is to have, or nil.
func decide(pod *corev1.Pod, uid string) (*capture.Rules, error) {
	flags, err := inject.Redirect(pod)
	if flags == nil || err != nil {
		return nil, err
	}
	if uid != "" && string(pod.UID) != uid {
		return nil, errors.New("it has been replaced by another one of its name")
	}
	r, err := capture.ParseFlags(flags)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", inject.AnnotationRedirect, err)
	}
	return &r, nil
}

// identity is what a runtime says of the pod that it makes.
type identity struct{ namespace, name, uid string }

// parseArgs reads CNI_ARGS, KEY=VALUE;KEY=VALUE. What it does not know is other
// plugins' business.
func parseArgs(s string) (id identity) {
	for pair := range strings.SplitSeq(s, ";") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "K8S_POD_NAMESPACE":
			id.namespace = value
		case "K8S_POD_NAME":
			id.name = value
		case "K8S_POD_UID":
			id.uid = value
		}
	}
	return id
}

// within runs f on a thread inside the network namespace at path. The thread is
// not used for anything else after it.
func within(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the pod's network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the pod's network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
