package kube

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/mesh"
)

// SettingsName is the ConfigMap, in seined's own namespace, of the default revision's
// settings: Istio's MeshConfig under SettingsKey. Another revision's is
// SettingsName-REVISION.
const (
	SettingsName = "seine"
	SettingsKey  = "mesh"
)

// Options say which cluster to read and how.
type Options struct {
	Client    *rest.Config
	Namespace string // of the ConfigMap of the settings
	Settings  string // its name; "": SettingsName
	// Config are the start for the mesh's settings, and the first Generation.
	Config config.Options
	// A change is taken when things have been quiet for Quiet, or Longest after
	// the first of a burst; 50 ms and 500 ms if zero.
	Quiet, Longest time.Duration
	Log            *slog.Logger // nil: discard
}

// Source follows one cluster.
type Source struct {
	opt     Options
	log     *slog.Logger
	core    *rest.RESTClient
	slices  *rest.RESTClient
	custom  dynamic.Interface
	crds    metadata.Interface
	wake    chan struct{} // something changed
	refresh chan struct{} // the kinds that are served may have changed

	mu       sync.Mutex
	state    *state
	feeds    []*feed
	asked    bool            // which kinds there are is known
	domain   string          // trust domain: fixed by Load
	findings config.Findings // of the last build
	sets     []set           // of the last builds, the newest last
}

// New makes a Source; nothing is asked yet.
func New(opt Options) (*Source, error) {
	if opt.Settings == "" {
		opt.Settings = SettingsName
	}
	if opt.Quiet <= 0 {
		opt.Quiet = 50 * time.Millisecond
	}
	if opt.Longest <= 0 {
		opt.Longest = 500 * time.Millisecond
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{opt: opt, log: opt.Log, wake: make(chan struct{}, 1), refresh: make(chan struct{}, 1), state: newState()}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	typed := func(path string, gv schema.GroupVersion) (*rest.RESTClient, error) {
		c := rest.CopyConfig(opt.Client)
		c.APIPath, c.GroupVersion, c.NegotiatedSerializer = path, &gv, codecs
		c.ContentType, c.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
		return rest.RESTClientFor(c)
	}
	var err error
	if s.core, err = typed("/api", corev1.SchemeGroupVersion); err == nil {
		s.slices, err = typed("/apis", discoveryv1.SchemeGroupVersion)
	}
	if err == nil {
		s.custom, err = dynamic.NewForConfig(opt.Client)
	}
	if err == nil {
		s.crds, err = metadata.NewForConfig(opt.Client)
	}
	if err != nil {
		return nil, fmt.Errorf("kube: client of %s: %w", opt.Client.Host, err)
	}
	return s, nil
}

// Load asks for the mesh's settings alone, as long as it takes the API server to
// answer: the trust domain must be known before anything is signed. The Result
// holds no service and no workload.
func (s *Source) Load(ctx context.Context) (*config.Result, error) {
	var said string
	for {
		var m corev1.ConfigMap
		err := s.core.Get().Namespace(s.opt.Namespace).Resource("configmaps").Name(s.opt.Settings).Do(ctx).Into(&m)
		if err == nil || apierrors.IsNotFound(err) {
			in := &input{settings: []byte(m.Data[SettingsKey])}
			r := in.build(s.opt.Config)
			s.mu.Lock()
			s.domain = r.Snapshot.Settings.TrustDomain
			s.mu.Unlock()
			return r, r.Findings.Err()
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err.Error() != said {
			said = err.Error()
			s.log.Warn("the mesh's settings cannot be read yet", "configmap", s.opt.Namespace+"/"+s.opt.Settings, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// Watch calls handle with what is there once everything was read, and again
// after each change, one call at a time, until ctx ends. It returns ctx's error.
// Generations count from Options.Config.Generation.
func (s *Source) Watch(ctx context.Context, handle func(config.Event)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := logr.FromSlogHandler(s.log.Handler())
	s.watchCore(ctx, &wg, logger)
	wg.Go(func() { s.followKinds(ctx, &wg, logger) })
	b := &builder{s: s, handle: handle, generation: s.opt.Config.Generation}
	return b.run(ctx)
}

// Read reads the cluster once. Files are laid over its resources, as if they had
// been applied.
func (s *Source) Read(ctx context.Context, over []config.File) (*config.Result, error) {
	if _, err := s.Load(ctx); ctx.Err() != nil {
		return nil, s.late(ctx, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	logger := logr.FromSlogHandler(s.log.Handler())
	s.watchCore(ctx, &wg, logger)
	wg.Go(func() { s.followKinds(ctx, &wg, logger) })
	if err := s.await(ctx); err != nil {
		return nil, s.late(ctx, err)
	}
	s.mu.Lock()
	in := s.state.input()
	s.mu.Unlock()
	in.files = over
	return in.build(s.opt.Config), nil
}

func (s *Source) late(ctx context.Context, err error) error {
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("kube: %s was not read in time: %s", s.opt.Client.Host, strings.Join(s.Waiting(), "; "))
	}
	return err
}

// builder makes Events of the state. One goroutine, Watch's caller's, owns it.
type builder struct {
	s          *Source
	handle     func(config.Event)
	generation uint64
	last       *config.Result   // of the last full build
	snapshot   *mesh.Snapshot   // the last one
	others     []*mesh.Workload // of last, those that are no pods
	took       time.Duration    // the last full build
	findings   config.Findings  // of the last full build
	shape      bool             // analysis is not of today
	analysed   time.Time        // when the last full build was
}

// again is how long after a full build pods that came or went may wait for the
// next analysis: at least a second, and not more than a tenth of all time.
func (b *builder) again() time.Duration { return max(time.Second, 10*b.took) }

func (b *builder) run(ctx context.Context) error {
	s := b.s
	if err := s.await(ctx); err != nil {
		return err
	}
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	analysis := time.NewTimer(time.Hour)
	defer analysis.Stop()
	var since time.Time // of the first change that was not taken yet
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(max(0, min(s.opt.Quiet, s.opt.Longest-time.Since(since))))
		case <-quiet.C:
			since = time.Time{}
			b.step(false)
			if b.shape {
				analysis.Reset(max(0, b.again()-time.Since(b.analysed)))
			}
		case <-analysis.C:
			if b.shape {
				b.step(true)
			}
		}
	}
}

// step takes what changed. full asks for everything anew.
func (b *builder) step(full bool) {
	s := b.s
	s.mu.Lock()
	changed := s.state.changed
	s.state.changed = 0
	full = full || b.last == nil || changed&changedConfig != 0
	if changed == 0 && !full {
		s.mu.Unlock()
		return
	}
	b.shape = (b.shape || changed&changedShape != 0) && !full
	if !full {
		p := s.state.patch(b.others)
		s.mu.Unlock()
		b.generation++
		r := *b.last
		b.snapshot = b.snapshot.Patched(b.generation, p)
		r.Snapshot = b.snapshot
		b.handle(config.Event{Result: &r, Findings: b.findings, EndpointsOnly: true})
		return
	}
	in := s.state.input()
	in.keep = true
	s.state.pictured()
	good, domain := s.state.settingsGood, s.domain
	if good == nil {
		good = s.state.settingsBefore
	}
	s.mu.Unlock()
	start := time.Now()
	b.generation++
	r, v, fs := b.build(in, good, domain)
	b.took, b.analysed = time.Since(start), time.Now()
	s.mu.Lock()
	s.state.settle(in, v, b.generation)
	s.findings = fs
	s.note(in, b.generation)
	s.state.settingsBefore = nil
	if !v.settings {
		s.state.settingsGood = in.settings
	}
	s.mu.Unlock()
	b.last, b.snapshot, b.findings, b.others = r, r.Snapshot, fs, nil
	for _, w := range r.Snapshot.Workloads {
		if w.Kind != "Pod" {
			b.others = append(b.others, w)
		}
	}
	b.handle(config.Event{Result: r, Findings: fs})
}

// build makes a Result of in. What is refused is there in the last version that
// was good, if there is one, and findings say so.
func (b *builder) build(in *input, settingsGood []byte, domain string) (*config.Result, verdicts, config.Findings) {
	opt := b.s.opt.Config
	opt.Generation = b.generation
	r := in.build(opt)
	v := refused(in, r.Findings)
	var moved *config.Finding
	if now := r.Snapshot.Settings.TrustDomain; now != domain && !v.settings {
		// It is in every certificate: it holds for the life of the process.
		v.settings = true
		moved = &config.Finding{
			Code: "SEINE0018", Severity: config.Error, Kind: "MeshConfig", Path: "trustDomain", Refused: true,
			Message: fmt.Sprintf("is %s now, but this control plane signs for %s: start it again to change that", now, domain),
		}
	}
	was := make([][]byte, len(in.data))
	copy(was, in.data)
	wasSettings := string(in.settings)
	if !in.lastGood(v, settingsGood) {
		fs := r.Findings
		if moved != nil {
			fs = append(slices.Clip(fs), *moved)
		}
		return r, v, fs
	}
	replaced := map[string]bool{}
	for i, res := range in.resources {
		if string(was[i]) != string(in.data[i]) {
			replaced[res.id.kind+" "+res.id.namespace+"/"+res.id.name] = true
		}
	}
	again := in.build(opt)
	// What another control plane found good this one may not.
	neither := refused(in, again.Findings)
	left := map[string]bool{}
	for i, res := range in.resources {
		if name := res.id.kind + " " + res.id.namespace + "/" + res.id.name; neither.resources[res.id] && replaced[name] {
			in.data[i], left[name] = was[i], true
		}
	}
	var out config.Findings
	for _, f := range r.Findings {
		name := f.Kind + " " + f.Namespace + "/" + f.Name
		settings := f.Kind == "MeshConfig" && wasSettings != string(in.settings)
		if f.Refused && (settings || replaced[name]) {
			if !left[name] {
				f.Message += "; the version before it still holds"
			}
			out = append(out, f)
		}
	}
	if moved != nil {
		out = append(out, *moved)
	}
	for _, f := range again.Findings {
		if !replaced[f.Kind+" "+f.Namespace+"/"+f.Name] {
			out = append(out, f)
		}
	}
	return again, v, out
}

// await waits until every feed was read once, and says what it waits for.
func (s *Source) await(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	start, said := time.Now(), time.Now()
	for {
		waiting := s.Waiting()
		if len(waiting) == 0 {
			s.log.Info("the cluster's resources were read", "took", time.Since(start))
			return nil
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			s.log.Warn("not all resources could be read yet; nothing is served before", "waiting", strings.Join(waiting, "; "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Waiting is what was not read yet, each with the reason that is known.
func (s *Source) Waiting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if !s.asked {
		out = append(out, "which kinds the cluster serves")
	}
	return append(out, s.unread()...)
}

// unread are the feeds that were not read yet. s.mu is held.
func (s *Source) unread() []string {
	var out []string
	for _, f := range s.feeds {
		if !f.synced && !f.optional {
			why := f.name
			if f.err != nil {
				why += ": " + f.err.Error()
			}
			out = append(out, why)
		}
	}
	return out
}
