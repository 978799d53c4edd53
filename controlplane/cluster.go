package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/seinemesh/seine/config/kube"
)

// Cluster is the Kubernetes cluster that a control plane serves.
type Cluster struct {
	Client    kubernetes.Interface
	Config    *rest.Config // nil: resources are files, and the cluster is there for identity alone
	Namespace string       // seined's own, the root namespace
	Pod       string       // this replica's name, unique in it
	Revision  string       // "default", or the name of another installation beside it
	// InPod: this process runs in a pod of the cluster, with a network of its own.
	InPod bool
}

// OpenCluster makes a Cluster. POD_NAME says which replica this is.
func OpenCluster(config *rest.Config, namespace, revision string) (*Cluster, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("seined: Kubernetes client: %w", err)
	}
	c := &Cluster{Client: client, Config: config, Namespace: namespace, Pod: os.Getenv("POD_NAME"), Revision: revision}
	_, err = rest.InClusterConfig()
	c.InPod = err == nil
	if c.Pod == "" {
		if c.Pod, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("seined: POD_NAME is not set and there is no host name: %w", err)
		}
	}
	return c, nil
}

// serviceNames are the DNS names that seined is called by in a cluster, webhooks
// included; dnsName is always one of them.
func (c *Cluster) serviceNames() []string {
	names := []string{dnsName}
	services := []string{"seined"}
	if c.Revision != "" && c.Revision != "default" {
		services = append(services, "seined-"+c.Revision)
	}
	for _, s := range services {
		for _, name := range []string{s + "." + c.Namespace + ".svc", s + "." + c.Namespace + ".svc.cluster.local"} {
			if name != dnsName {
				names = append(names, name)
			}
		}
	}
	return names
}

// settingsName is the ConfigMap of this revision's settings.
func (c *Cluster) settingsName() string { return kube.SettingsName + c.suffix() }

// meshLease is the Lease by which the replicas of all revisions agree on one of them
// for what the mesh has once, whoever serves it: the status of resources, and warnings.
// Two revisions would write over each other's counts.
const meshLease = "seined-mesh"

// leaseName is the Lease by which the replicas of a revision agree on one of them for
// what must be done once: making the root, keeping bundles and the webhooks'
// certificates.
func (c *Cluster) leaseName() string {
	if c.Revision == "" || c.Revision == "default" {
		return "seined-leader"
	}
	return "seined-leader-" + strings.ToLower(c.Revision)
}

// leadership is whether this replica leads. Without a cluster it is alone and does.
type leadership struct {
	log *slog.Logger

	mu      sync.Mutex
	term    context.Context // of the current leadership; nil: another one leads
	changed chan struct{}   // closed with each change
}

func newLeadership(log *slog.Logger) *leadership {
	return &leadership{log: log, changed: make(chan struct{})}
}

// set notes the term that begins.
func (l *leadership) set(term context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = term
	close(l.changed)
	l.changed = make(chan struct{})
}

// end notes that another one leads, or nobody.
func (l *leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = nil
	close(l.changed)
	l.changed = make(chan struct{})
}

// current returns the term, nil if another one leads, and a channel that is closed
// when that changes.
func (l *leadership) current() (context.Context, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term, l.changed
}

// alone leads until ctx ends.
func (l *leadership) alone(ctx context.Context) { l.set(ctx) }

// elect takes part in elections until ctx ends. It gives the Lease back at the end, so
// that a successor need not wait for its time to run out.
func (l *leadership) elect(ctx context.Context, c *Cluster, lease string) error {
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, c.Namespace, lease,
		c.Client.CoreV1(), c.Client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: c.Pod})
	if err != nil {
		return fmt.Errorf("seined: leader election: %w", err)
	}
	lock.(*resourcelock.LeaseLock).LeaseMeta = metav1.ObjectMeta{Name: lease, Namespace: c.Namespace}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, ReleaseOnCancel: true, Name: "seined",
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) {
				l.log.Info("this replica leads now", "lease", lease)
				l.set(term)
			},
			OnStoppedLeading: l.end,
		},
	})
	if err != nil {
		return fmt.Errorf("seined: leader election: %w", err)
	}
	for ctx.Err() == nil {
		elector.Run(ctx) // until ctx ends or the Lease is lost
	}
	return nil
}

// while runs duty whenever this replica leads, until ctx ends. duty's ctx ends with
// the leadership; if it fails it is begun again.
func (l *leadership) while(ctx context.Context, what string, duty func(context.Context) error) error {
	for {
		term, changed := l.current()
		if term == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		run, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(term, cancel)
		err := duty(run)
		stop()
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			l.log.Error(what+" failed; it is begun again", "err", err)
		}
		wait := time.NewTimer(time.Second)
		select {
		case <-wait.C:
		case <-changed:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}
