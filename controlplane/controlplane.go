// Package controlplane wires seined together: files or a cluster in, certificates and
// discovery out, and an API that says what is going on.
//
// What enters: Options. What leaves: gRPC on one port (discovery for who has a
// certificate of the mesh, CreateCertificate for who has a join token) and
// HTTP for people and Prometheus. Broken configuration is reported and changes
// nothing; only what cannot be mended while running ends Run: a port in use, a
// root that cannot be read.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/seinemesh/seine/ca"
	authority "github.com/seinemesh/seine/ca/kube"
	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
	"github.com/seinemesh/seine/config/kube"
	"github.com/seinemesh/seine/discovery"
	"github.com/seinemesh/seine/gate"
	prom "github.com/seinemesh/seine/history/prometheus"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/plan"
	"github.com/seinemesh/seine/tap"
)

// Options are seined's flags.
type Options struct {
	Config     []string // files and folders, watched
	Cluster    *Cluster // the cluster to serve, and to read instead of Config; nil: none
	MeshConfig string   // Istio's MeshConfig file; "": none
	State      string   // folder of the root and its key, 0700; made if it is not there
	CACerts    string   // a root that is brought, in Istio's cacerts layout; "": State's own
	Listen     string   // gRPC: discovery and certificates
	HTTP       string   // API (on loopback), health and metrics; "": none
	API        string   // the same on a loopback address, for people with a port-forward; "": none
	Webhook    string   // with Cluster: where the API server's questions are answered; "": nowhere
	// WebhookClientCA is a PEM file: who asks the webhooks must show a certificate
	// that these have signed. "": an API server cannot be told from others.
	WebhookClientCA string
	Socket          string        // Unix socket of the API, 0600; "": none
	JoinSecret      string        // file of the join tokens' secret; made if it is not there; "": State/join-secret
	CertTTL         time.Duration // of leaves; 0: 24 hours
	Prometheus      string        // URL of one that remembers longer than this control plane; "": none
	TrustDomain     string        // "": the MeshConfig's, or cluster.local
	StatusPort      uint16        // where proxies are scraped; 0: 15020
	Version         string
	Log             *slog.Logger // nil: discard
	// Listening is called once everything listens, with the addresses; nil: not.
	Listening func(grpc, http net.Addr)
}

// RootFile is the trust bundle's name in Options.State: what proxies are given
// to know seined by.
const RootFile = "root-cert.pem"

// source is where resources come from: files, or a cluster.
type source interface {
	// Load reads as much as tells the trust domain.
	Load(context.Context) (*config.Result, error)
	Watch(context.Context, func(config.Event)) error
}

// DefaultAPI is where the API for people is in a cluster, reached by a
// port-forward alone.
const DefaultAPI = "127.0.0.1:15016"

const shutdown = 5 * time.Second

// server is one running control plane.
type server struct {
	opt       Options
	log       *slog.Logger
	lead      *leadership      // of this revision
	mesh      *leadership      // of all revisions
	roots     *authority.Roots // nil: the root is in a folder
	authority *ca.Authority
	rotator   *rotator
	started   time.Time
	bundled   chan struct{} // receives when the trust bundle has changed
	source    *mtls.Source
	issuer    *ca.Service
	discovery *discovery.Server
	taps      *tap.Hub
	config    *configuration
	cluster   *kube.Source // nil: resources are files
	scraper   *scraper
	siblings  siblings
	longTerm  longTerm
	registry  *prometheus.Registry
	listeners *listeners
}

// Run runs a control plane until ctx ends, and then ends its streams and
// answers what was asked already.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StatusPort == 0 {
		o.StatusPort = 15020
	}
	switch {
	case len(o.Config) == 0 && o.Cluster == nil:
		return errors.New("seined: --config is missing: name at least one file or folder of resources, or say --kubernetes")
	case len(o.Config) > 0 && o.Cluster != nil && o.Cluster.Config != nil:
		return errors.New("seined: --config and --kubernetes exclude each other: put the files' resources into the cluster")
	case o.State == "" && o.Cluster == nil:
		return errors.New("seined: --state is missing: say where the root certificate is kept")
	}
	s := &server{opt: o, log: o.Log, started: time.Now(), lead: newLeadership(o.Log), mesh: newLeadership(o.Log), bundled: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	if o.Cluster == nil {
		s.lead.alone(ctx)
		s.mesh.alone(ctx)
	} else {
		g.Go(func() error { return s.lead.elect(ctx, o.Cluster, o.Cluster.leaseName()) })
		g.Go(func() error { return s.mesh.elect(ctx, o.Cluster, meshLease) })
	}
	err := s.run(ctx, g)
	if err != nil {
		cancel()
	}
	err = errors.Join(err, g.Wait())
	if s.listeners != nil {
		s.listeners.close()
	}
	if s.longTerm.client != nil {
		s.longTerm.client.Close()
	}
	return err
}

// run opens everything and starts it in g.
func (s *server) run(ctx context.Context, g *errgroup.Group) error {
	o := &s.opt
	source, err := s.open(ctx)
	if err != nil {
		return unlessDone(ctx, err)
	}
	l, err := s.listen()
	if err != nil {
		return err
	}
	s.listeners = l // Run closes them once nobody uses them any more
	s.guard(ctx, g)
	g.Go(func() error { return s.discovery.Run(ctx) })
	if s.cluster != nil {
		k := &kept{s: s, source: s.cluster}
		if err := k.recall(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("which versions of refused resources held before cannot be read yet", "err", err)
		}
		g.Go(func() error { return k.run(ctx) })
	}
	g.Go(func() error { return unlessDone(ctx, source.Watch(ctx, s.config.take)) })
	if s.cluster != nil {
		g.Go(func() error { return s.mesh.while(ctx, "writing the status of routes", s.writeRouteStatus) })
		g.Go(func() error { return s.mesh.while(ctx, "writing the status of resources", s.writeStatus) })
		g.Go(func() error { return s.reportProxies(ctx) })
		g.Go(func() error { return s.countSiblings(ctx) })
	}
	g.Go(func() error { return s.scraper.run(ctx) })
	s.serveGRPC(ctx, g, l.grpc)
	if l.http != nil {
		s.serveHTTP(ctx, g, l.http, s.handler(doorOf(l.http.Addr())))
	}
	if l.api != nil {
		s.serveHTTP(ctx, g, l.api, s.handler(s.doorOfAPI()))
	}
	if l.socket != nil {
		s.serveHTTP(ctx, g, l.socket, s.handler(doorOwner))
	}
	if o.Webhook != "" && o.Cluster != nil {
		if err := s.webhook(ctx, g); err != nil {
			return err
		}
	}
	s.log.Info("seined runs", "grpc", l.grpc.Addr(), "http", addr(l.http), "api", addr(l.api), "socket", o.Socket,
		"trust_domain", s.authority.TrustDomain(), "version", o.Version)
	if o.Listening != nil {
		o.Listening(l.grpc.Addr(), addr(l.http))
	}
	return nil
}

func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func addr(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

// open reads and makes everything that needs no port.
func (s *server) open(ctx context.Context) (source, error) {
	o := &s.opt
	settings := mesh.DefaultSettings()
	if o.TrustDomain != "" {
		settings.TrustDomain = o.TrustDomain
	}
	var source source
	if o.Cluster == nil || o.Cluster.Config == nil {
		source = files.New(files.Options{
			Paths: o.Config, MeshConfig: o.MeshConfig, Log: s.log,
			Config: config.Options{Settings: &settings},
		})
	} else {
		settings.RootNamespace = o.Cluster.Namespace
		k, err := kube.New(kube.Options{Client: o.Cluster.Config, Namespace: o.Cluster.Namespace, Settings: o.Cluster.settingsName(), Config: config.Options{Settings: &settings}, Log: s.log})
		if err != nil {
			return nil, fmt.Errorf("seined: %w", err)
		}
		source, s.cluster = k, k
	}
	// The trust domain holds for the life of the process: it is in the
	// certificates. What else there is to say of the files, Watch says.
	domain := settings.TrustDomain
	if first, _ := source.Load(ctx); first != nil {
		domain = first.Snapshot.Settings.TrustDomain
	}
	if o.TrustDomain != "" && domain != o.TrustDomain {
		return nil, fmt.Errorf("seined: the MeshConfig (%s) says trustDomain %s, --trust-domain says %s: they must agree", s.meshConfigName(), domain, o.TrustDomain)
	}
	err := s.identity(ctx, domain)
	if err != nil {
		return nil, err
	}
	s.discovery, err = discovery.New(discovery.Options{
		Plan: discovery.Plan{Self: s.self, Answer: plan.Answer, Service: plan.Service, Endpoints: plan.Endpoints, Reached: plan.Reached},
		Log:  s.log,
	})
	if err != nil {
		return nil, err
	}
	replica := ""
	if s.cluster != nil {
		replica = o.Cluster.Pod
	}
	s.taps = tap.New(tap.Options{Admit: s.discovery.Admit, Replica: replica})
	s.config = newConfiguration(s.discovery.Publish, domain, s.log)
	s.scraper = newScraper(s.discovery, o.StatusPort, s.log)
	s.scraper.alone = s.siblings.alone
	s.longTerm.log = s.log
	if o.Prometheus != "" {
		if s.longTerm.client, err = prom.New(o.Prometheus); err != nil {
			return nil, fmt.Errorf("seined: --prometheus: %w", err)
		}
	}
	s.config.changed = s.scraper.memory.changed
	s.register()
	return source, nil
}

func (s *server) meshConfigName() string {
	if s.cluster != nil {
		return "ConfigMap " + s.opt.Cluster.Namespace + "/" + s.opt.Cluster.settingsName()
	}
	return s.opt.MeshConfig
}

// register makes the metrics, under Istio's names where Istio has them.
func (s *server) register() {
	s.registry = prometheus.NewRegistry()
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.registry.MustRegister(s.discovery.Collectors()...)
	s.registry.MustRegister(s.config.collectors()...)
	s.registry.MustRegister(s.scraper.collectors()...)
	s.registry.MustRegister(s.expiryMetrics()...)
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pilot_info", Help: "Version of this control plane.", ConstLabels: prometheus.Labels{"version": s.opt.Version}})
	info.Set(1)
	s.registry.MustRegister(info,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "citadel_server_success_cert_issuance_count", Help: "Certificates issued."},
			func() float64 { n, _ := s.issuer.Counts(); return float64(n) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "seine_ca_refused_total", Help: "Requests for certificates that were refused."},
			func() float64 { _, n := s.issuer.Counts(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "seine_taps", Help: "Taps that are on: somebody watches live requests."},
			func() float64 { return float64(s.taps.Watchers()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "citadel_server_root_cert_expiry_timestamp", Help: "When the authority's certificate ends, in Unix seconds."},
			func() float64 { return float64(s.authority.NotAfter().Unix()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "seine_control_certificate_expiry_timestamp", Help: "When this server's own certificate ends, in Unix seconds; 0: it has none."},
			func() float64 {
				end := s.source.Status().NotAfter
				if end.IsZero() {
					return 0
				}
				return float64(end.Unix())
			}),
	)
}

// serveGRPC serves discovery and certificates on l.
func (s *server) serveGRPC(ctx context.Context, g *errgroup.Group, l net.Listener) {
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(s.source.ServerTLS())),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.MaxConcurrentStreams(32),
		grpc.MaxRecvMsgSize(4<<20),
		grpc.MaxHeaderListSize(16<<10),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 5 * time.Minute, Time: 20 * time.Second, Timeout: 10 * time.Second,
			// As Istio: proxies spread over replicas again.
			MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	s.discovery.Register(srv)
	s.taps.Register(srv)
	context.AfterFunc(ctx, s.taps.Close)
	s.issuer.Register(srv)
	g.Go(func() error {
		if err := srv.Serve(l); err != nil && ctx.Err() == nil {
			return fmt.Errorf("seined: gRPC: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		// Discovery's streams never end by themselves: a moment for whoever
		// waits for a certificate, then they are cut.
		timer := time.AfterFunc(500*time.Millisecond, srv.Stop)
		defer timer.Stop()
		srv.GracefulStop()
		return nil
	})
}

func (s *server) serveHTTP(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return fmt.Errorf("seined: HTTP: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
		defer cancel()
		if srv.Shutdown(end) != nil {
			return srv.Close()
		}
		return nil
	})
}

// How many connections there may be at once; no address can keep the others out.
const (
	grpcConnections    = 16_384 // one for each proxy's stream, and some for certificates
	httpConnections    = 256
	webhookConnections = 256 // one for each review that an API server waits for
)

// bounded gives a port so many places, and a metric of those that found none.
func (s *server) bounded(l net.Listener, port string, places int) net.Listener {
	door := gate.New(l, places)
	s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "seine_control_connections_turned_away_total", Help: "Connections that were closed for want of a place.", ConstLabels: prometheus.Labels{"port": port},
	}, func() float64 { return float64(door.Turned()) }))
	return door
}

// listeners are the ports that Run holds.
type listeners struct {
	grpc, http, api, socket net.Listener
	once                    sync.Once
	path                    string // of the socket
}

func (s *server) listen() (l *listeners, err error) {
	l = &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.grpc, err = net.Listen("tcp", s.opt.Listen); err != nil {
		return l, fmt.Errorf("seined: --listen %s: %w: choose another port or end what holds this one", s.opt.Listen, err)
	}
	l.grpc = s.bounded(l.grpc, "grpc", grpcConnections)
	if s.opt.HTTP != "" {
		if l.http, err = net.Listen("tcp", s.opt.HTTP); err != nil {
			return l, fmt.Errorf("seined: --http %s: %w: choose another port or end what holds this one", s.opt.HTTP, err)
		}
		l.http = s.bounded(l.http, "http", httpConnections)
	}
	if s.opt.API != "" {
		if l.api, err = net.Listen("tcp", s.opt.API); err != nil {
			return l, fmt.Errorf("seined: --api %s: %w: choose another port or end what holds this one", s.opt.API, err)
		}
		if !isLoopback(l.api.Addr()) {
			return l, fmt.Errorf("seined: --api %s: the API tells who calls whom and is only served on a loopback address, such as 127.0.0.1:15016", s.opt.API)
		}
	}
	if s.opt.Socket != "" {
		if l.socket, err = listenUnix(s.opt.Socket); err != nil {
			return l, fmt.Errorf("seined: --socket %s: %w", s.opt.Socket, err)
		}
		l.path = s.opt.Socket
	}
	return l, nil
}

// close is for what no server has taken and closed; the socket's file is ours.
func (l *listeners) close() {
	l.once.Do(func() {
		for _, x := range []net.Listener{l.grpc, l.http, l.api, l.socket} {
			if x != nil {
				_ = x.Close()
			}
		}
		if l.path != "" {
			_ = os.Remove(l.path)
		}
	})
}

// listenUnix listens on a socket that only its owner can open, from the first
// moment on: it is made in a folder of its own and then moved into place. A
// socket on which nobody answers any more is replaced.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, errors.New("another control plane answers there; end it or choose another path")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, errors.New("a file that is no socket is there; remove it or choose another path")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// replace writes a file that everybody may read, whole or not at all.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}
