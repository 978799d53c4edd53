package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/ca"
	"github.com/seinemesh/seine/ca/kube"
	"github.com/seinemesh/seine/ca/rotation"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/mtls/caclient"
	"github.com/seinemesh/seine/mtls/trust"
	"github.com/seinemesh/seine/proxy/control"
)

// member is a proxy as far as its identity goes: everything that seine-proxy wires,
// and a port behind which it echoes to whoever the mesh vouches for.
type member struct {
	id      string
	source  *mtls.Source
	client  *control.Client
	address string
}

// newMember joins a mesh. token is what its token file holds, bundle its bundle file.
func newMember(t *testing.T, address func() string, name, account, token, bundle string) *member {
	t.Helper()
	m := &member{id: "spiffe://cluster.local/ns/default/sa/" + account}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address())
	}
	authority, err := caclient.New(caclient.Options{
		Address: "seined:15012", TrustDomain: "cluster.local", BundleFile: bundle, TokenFile: file, ID: m.id, Dial: dial,
		Trusted: func() []*x509.Certificate { return m.source.Roots()["cluster.local"] },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.source = mtls.NewSource(mtls.SourceOptions{Request: authority.Request})
	keeper := &trust.Keeper{Source: m.source, TrustDomain: "cluster.local", File: bundle, Jitter: time.Millisecond, Every: 20 * time.Millisecond}
	m.client, err = control.New(control.Options{
		Address: "seined:15012", TLS: m.source.ClientTLS(caclient.DefaultServerName, caclient.ServerID("cluster.local")),
		Certified: m.source.Ready(), Dial: dial, Node: "default/" + name, Version: "test",
		Trust: func(s *seinev1.Self) error { return keeper.Take(s.TrustBundle, s.TrustBundleId, s.SigningRootId) },
	})
	if err != nil {
		t.Fatal(err)
	}
	keeper.Reconnect = m.client.Reconnect
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.source.Run(ctx) })
	wg.Go(func() { _ = m.client.Run(ctx) })
	wg.Go(func() { _ = keeper.Run(ctx) })
	wg.Go(func() { m.echo(l, &wg) })
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	return m
}

// echo demands a certificate of the mesh, as a sidecar's inbound port does.
func (m *member) echo(l net.Listener, wg *sync.WaitGroup) {
	conf := m.source.ServerTLS()
	conf.ClientAuth = tls.RequireAnyClientCert
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			s := tls.Server(c, conf)
			_, _ = io.Copy(s, s)
		})
	}
}

// call opens a connection to other and exchanges a byte.
func (m *member) call(other *member) error {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: m.source.ClientTLS("", other.id)}
	c, err := d.Dial("tcp", other.address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	p := []byte{1}
	if _, err := c.Write(p); err != nil {
		return err
	}
	_, err = io.ReadFull(c, p)
	return err
}

// load has every member call every other one until stop is called, which returns how
// often that went well. A call that fails is an error of the test.
func load(t *testing.T, members []*member) (stop func() int64) {
	var good atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, other := range members {
					if err := m.call(other); err != nil {
						t.Errorf("%s to %s: %v", m.id, other.id, err)
						return
					}
					good.Add(1)
				}
			}
		})
	}
	return func() int64 { cancel(); wg.Wait(); return good.Load() }
}

var accounts = map[string]string{"frontend-1": "frontend", "billing-v1-1": "billing", "billing-v2-1": "billing"}

// joinToken mints a token for one of accounts.
func (i *instance) joinToken(name string) string {
	i.t.Helper()
	secret, err := ca.LoadSecret(filepath.Join(i.opt.State, "join-secret"))
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := ca.Mint(secret, ca.Claims{Namespace: "default", ServiceAccount: accounts[name], Workload: name, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

func (i *instance) rotate(now bool) int {
	i.t.Helper()
	body, err := json.Marshal(map[string]bool{"now": now})
	if err != nil {
		i.t.Fatal(err)
	}
	res, err := i.socket.Post("http://seined/api/v1/ca/rotate", "application/json", bytes.NewReader(body))
	if err != nil {
		i.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func ready(t *testing.T, members []*member) {
	t.Helper()
	for _, m := range members {
		select {
		case <-m.client.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal(m.id + " is not ready")
		}
	}
}

// TestRotationUnderLoad replaces the root of a mesh whose members call each other all
// the while, each time over a new connection. Not one call fails, and in the end the
// old root vouches for nobody.
func TestRotationUnderLoad(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := start(t, dir, nil)
	bundle := filepath.Join(i.opt.State, RootFile)
	before, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	var members []*member
	for name, account := range accounts {
		members = append(members, newMember(t, func() string { return i.grpc }, name, account, i.joinToken(name), bundle))
	}
	ready(t, members)
	stop := load(t, members)
	old := members[0].source.Roots()["cluster.local"][0]
	for round := 1; round <= 2; round++ {
		var st rotation.Status
		if code := i.rotate(false); code != http.StatusOK {
			t.Fatal(code)
		}
		if code := i.rotate(false); code != http.StatusConflict {
			t.Errorf("a second one at once: %d", code)
		}
		eventually(t, "the end of the rotation", func() bool {
			i.get("/api/v1/ca", &st)
			return st.Rotation.Step == rotation.Stable && len(st.Roots) == 1 && st.Roots[0].ID != mtls.BundleID(old)
		})
		for _, m := range members {
			if m.source.LeadsTo(old) || len(m.source.Roots()["cluster.local"]) != 1 {
				t.Errorf("round %d: %s is still vouched for by the old root, or trusts it", round, m.id)
			}
		}
		old = members[0].source.Roots()["cluster.local"][0]
	}
	if n := stop(); n < 20 {
		t.Errorf("only %d calls", n)
	} else {
		t.Logf("%d calls over new connections, none failed", n)
	}
	after, err := os.ReadFile(bundle)
	if err != nil || bytes.Equal(before, after) || bytes.Count(after, []byte("BEGIN")) != 1 {
		t.Errorf("the bundle's file: %v, %d roots", err, bytes.Count(after, []byte("BEGIN")))
	}
	// A new process goes on with the new root.
	i.stop()
	again := start(t, dir, nil)
	var st rotation.Status
	again.get("/api/v1/ca", &st)
	if len(st.Roots) != 1 || st.Roots[0].ID != mtls.BundleID(old) {
		t.Errorf("after a restart: %+v", st.Roots)
	}
}

// TestRotationWaitsForTheAbsent: a proxy that is away holds the rotation up until it
// is back, or until somebody says not to wait; a restart of seined changes neither.
func TestRotationWaitsForTheAbsent(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := start(t, dir, nil)
	bundle := filepath.Join(i.opt.State, RootFile)
	var at atomic.Pointer[string] // members dial while the next seined starts
	at.Store(&i.grpc)
	address := func() string { return *at.Load() }
	one := newMember(t, address, "frontend-1", "frontend", i.joinToken("frontend-1"), bundle)
	two := newMember(t, address, "billing-v1-1", "billing", i.joinToken("billing-v1-1"), bundle)
	ready(t, []*member{one, two})
	i.rotate(false)
	var st rotation.Status
	eventually(t, "it waits for the third", func() bool {
		i.get("/api/v1/ca", &st)
		return st.Rotation.Step == rotation.Distribute && strings.Contains(st.Waiting, "1 of 3 proxies are not connected")
	})
	if err := one.call(two); err != nil {
		t.Error(err)
	}
	i.stop()
	i = start(t, dir, nil)
	at.Store(&i.grpc)
	i.get("/api/v1/ca", &st)
	if st.Rotation.Step != rotation.Distribute || len(st.Roots) != 2 {
		t.Errorf("after a restart: %+v", st)
	}
	three := newMember(t, address, "billing-v2-1", "billing", i.joinToken("billing-v2-1"), bundle)
	eventually(t, "the end", func() bool {
		i.get("/api/v1/ca", &st)
		return st.Rotation.Step == rotation.Stable && len(st.Roots) == 1
	})
	for _, m := range []*member{one, two, three} {
		if err := m.call(one); err != nil {
			t.Error(err)
		}
	}
}

// TestAwayDuringAWholeRotation: a proxy that could not reach seined from before a new
// root was made until the old one was gone finds back by the bundle's file alone.
func TestAwayDuringAWholeRotation(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	i := start(t, dir, nil)
	bundle := filepath.Join(i.opt.State, RootFile)
	// Its view of the file: late, as a kubelet's.
	mine := filepath.Join(t.TempDir(), "root-cert.pem")
	sync := func() {
		data, err := os.ReadFile(bundle)
		if err == nil {
			err = replace(mine, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	sync()
	var away atomic.Bool
	m := newMember(t, func() string {
		if away.Load() {
			return "127.0.0.1:1"
		}
		return i.grpc
	}, "frontend-1", "frontend", i.joinToken("frontend-1"), mine)
	ready(t, []*member{m})
	old := m.source.Roots()["cluster.local"][0]
	away.Store(true)
	m.client.Reconnect()
	eventually(t, "disconnected", func() bool { up, _ := m.client.Connected(); return !up })
	i.rotate(true)
	var st rotation.Status
	eventually(t, "the end", func() bool {
		i.get("/api/v1/ca", &st)
		return st.Rotation.Step == rotation.Stable && len(st.Roots) == 1 && st.Roots[0].ID != mtls.BundleID(old)
	})
	away.Store(false)
	if !m.source.LeadsTo(old) {
		t.Fatal("it was not away")
	}
	sync()
	eventually(t, "it is back", func() bool { up, _ := m.client.Connected(); return up && !m.source.LeadsTo(old) })
	if roots := m.source.Roots()["cluster.local"]; len(roots) != 1 || roots[0].Equal(old) {
		t.Error("the old root lingers")
	}
}

// TestRotationInACluster: two replicas, proxies at both, and the state in the Secret.
func TestRotationInACluster(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	world, _ := fakeCluster(t)
	in := func(pod string) *instance {
		return start(t, dir, func(o *Options) {
			c := *world
			c.Pod = pod
			o.Cluster, o.State, o.HTTP, o.Socket = &c, "", "", filepath.Join(dir, pod)
			o.Log = slog.New(slog.DiscardHandler)
		})
	}
	replicas := []*instance{in("seined-1"), in("seined-2")}
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	bundle := func() string {
		m, err := world.Client.CoreV1().ConfigMaps("default").Get(t.Context(), kube.BundleName, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return m.Data[kube.BundleKey]
	}
	eventually(t, "the ConfigMap", func() bool { return bundle() != "" })
	if err := replace(file, []byte(bundle())); err != nil {
		t.Fatal(err)
	}
	var members []*member
	for name, account := range accounts {
		at := replicas[len(members)%2]
		members = append(members, newMember(t, func() string { return at.grpc }, name, account, podToken(t, name, account), file))
	}
	ready(t, members)
	stop := load(t, members)
	old := members[0].source.Roots()["cluster.local"][0]
	if code := replicas[1].rotate(false); code != http.StatusOK {
		t.Fatal(code)
	}
	var st rotation.Status
	eventually(t, "the end of the rotation", func() bool {
		replicas[0].get("/api/v1/ca", &st)
		return st.Rotation.Step == rotation.Stable && len(st.Roots) == 1 && st.Roots[0].ID != mtls.BundleID(old)
	})
	if n := stop(); n < 20 {
		t.Errorf("only %d calls", n)
	}
	for _, m := range members {
		if m.source.LeadsTo(old) || len(m.source.Roots()["cluster.local"]) != 1 {
			t.Errorf("%s is still vouched for by the old root, or trusts it", m.id)
		}
	}
	eventually(t, "the ConfigMap", func() bool {
		return strings.Count(bundle(), "BEGIN") == 1 && !strings.Contains(bundle(), string(ca.PEM(old)))
	})
	if len(st.Replicas) != 2 {
		t.Errorf("%+v", st.Replicas)
	}
}

func TestRotateRefuses(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	first := &server{opt: Options{Config: []string{filepath.Join(dir, "config")}, State: filepath.Join(dir, "state")}, log: slog.New(slog.DiscardHandler)}
	if _, err := first.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	brought := &server{opt: Options{Config: []string{filepath.Join(dir, "config")}, State: filepath.Join(dir, "other"), CACerts: filepath.Join(dir, "state", "ca")}, log: slog.New(slog.DiscardHandler)}
	if _, err := brought.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, body string
		s          *server
		want       int
	}{
		{"a root that was brought", `{}`, brought, http.StatusConflict},
		{"an unknown field", `{"force":true}`, first, http.StatusBadRequest},
		{"not JSON", `now`, first, http.StatusBadRequest},
		{"nothing", ``, first, http.StatusOK},
	} {
		w := httptest.NewRecorder()
		tc.s.handler(doorOwner).ServeHTTP(w, httptest.NewRequest("POST", "http://seined/api/v1/ca/rotate", strings.NewReader(tc.body)))
		if w.Code != tc.want {
			t.Errorf("%s: %d %s", tc.name, w.Code, w.Body)
		}
	}
	for d, url := range map[door]string{doorAnybody: "http://10.0.0.1:15014", doorMachine: "http://127.0.0.1:15014"} {
		w := httptest.NewRecorder()
		first.handler(d).ServeHTTP(w, httptest.NewRequest("POST", url+"/api/v1/ca/rotate", strings.NewReader(`{}`)))
		if w.Code != http.StatusForbidden {
			t.Errorf("at %s: %d %s", url, w.Code, w.Body)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "state", "ca", "rotation.json")); errors.Is(err, os.ErrNotExist) {
		t.Error("nothing was begun")
	}
}
