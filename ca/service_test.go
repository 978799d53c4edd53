package ca

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	cav1 "github.com/seinemesh/seine/api/ca/v1"
	"github.com/seinemesh/seine/mtls"
	"github.com/seinemesh/seine/mtls/caclient"
)

// control is a control plane with nothing but its CA.
type control struct {
	a       *Authority
	secret  []byte
	address string
	log     *lockedBuffer
	service *Service
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *lockedBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

func startControl(t *testing.T, a *Authority, own func(context.Context) (*mtls.Identity, error)) *control {
	t.Helper()
	c := &control{a: a, secret: []byte(strings.Repeat("s", 32)), log: &lockedBuffer{}}
	src := mtls.NewSource(mtls.SourceOptions{})
	id, err := own(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Set(id); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = l.Addr().String()
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(src.ServerTLS())))
	c.service = &Service{Authority: a, Attest: JoinTokens(c.secret, nil), Log: slog.New(slog.NewTextHandler(c.log, nil)), Now: a.o.Now}
	c.service.Register(g)
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return c
}

func (c *control) client(t *testing.T, edit func(*caclient.Options)) (*caclient.Client, string) {
	t.Helper()
	dir := t.TempDir()
	o := caclient.Options{
		Address: c.address, TrustDomain: "cluster.local", TTL: time.Hour, ID: alice,
		BundleFile: filepath.Join(dir, "bundle"), TokenFile: filepath.Join(dir, "token"),
	}
	token, err := Mint(c.secret, Claims{"default", "alice", "alice-1", time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(o.BundleFile, c.a.Bundle(), 0o600), os.WriteFile(o.TokenFile, []byte(token+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&o)
	}
	client, err := caclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return client, token
}

func TestCertificateOverTheWire(t *testing.T) {
	a := openTest(t, func(o *Options) { o.Intermediate = true })
	c := startControl(t, a, a.Serve(time.Hour, caclient.DefaultServerName))
	client, token := c.client(t, nil)
	src := mtls.NewSource(mtls.SourceOptions{Request: client.Request})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- src.Run(ctx) }()
	<-src.Ready()
	cancel()
	<-ran
	if st := src.Status(); st.ID != alice || st.LastError != nil {
		t.Errorf("%+v", st)
	}
	if issued, refused := c.service.Counts(); issued != 1 || refused != 0 {
		t.Errorf("%d issued, %d refused", issued, refused)
	}
	// A session works with it, the intermediate in the chain.
	f := mtls.NewFactory(src, mtls.Options{})
	f.Client(alice, nil, "", netip.AddrPort{}, nil).Release()
	// mTLS to the control plane, as xDS will use it.
	conn, err := tls.Dial("tcp", c.address, func() *tls.Config {
		conf := src.ClientTLS("seined.seine-system.svc", a.ServerID())
		conf.NextProtos = []string{"h2"}
		return conf
	}())
	if err != nil {
		t.Fatal(err)
	}
	if id := mtls.PeerID(conn.ConnectionState()); id != a.ServerID() {
		t.Error(id)
	}
	conn.Close()
	log := c.log.String()
	if strings.Contains(log, token) || strings.Contains(log, "BEGIN") || !strings.Contains(log, alice) {
		t.Errorf("log: %s", log)
	}
}

// TestTokenGoesToSeinedAlone: servers that are not seined see no byte of the token.
func TestTokenGoesToSeinedAlone(t *testing.T) {
	a, foreign := openTest(t, nil), openTest(t, nil)
	thief := func(id string, dns ...string) func(context.Context) (*mtls.Identity, error) {
		return func(context.Context) (*mtls.Identity, error) {
			key := ecKey(t, elliptic.P256())
			got, err := a.issue(key.Public(), id, "default/thief-1", dns, time.Hour, time.Now())
			if err != nil {
				return nil, err
			}
			return &mtls.Identity{Certificate: tls.Certificate{Certificate: [][]byte{got.Leaf.Raw}, PrivateKey: key},
				Roots: map[string][]*x509.Certificate{"cluster.local": a.Roots()}}, nil
		}
	}
	for name, tc := range map[string]struct {
		own  func(context.Context) (*mtls.Identity, error)
		want string
	}{
		"a workload":               {thief(alice), "not who was expected"},
		"a workload with the name": {thief(alice, caclient.DefaultServerName), "not who was expected"},
		"another mesh's seined":    {foreign.Serve(time.Hour, caclient.DefaultServerName), "not valid"},
	} {
		c := startControl(t, a, tc.own)
		client, _ := c.client(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.Request(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if issued, refused := c.service.Counts(); issued+refused != 0 {
			t.Errorf("%s: the request, and its token, arrived", name)
		}
	}
	// Nor over plaintext.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan []byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			heard <- nil
			return
		}
		defer conn.Close()
		p := make([]byte, 4096)
		n, _ := io.ReadAtLeast(conn, p, 100)
		heard <- p[:n]
		conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	}()
	c := startControl(t, a, a.Serve(time.Hour))
	client, token := c.client(t, func(o *caclient.Options) { o.Address = l.Addr().String() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	_, err = client.Request(ctx)
	cancel()
	l.Close()
	if err == nil || bytes.Contains(<-heard, []byte(token)) {
		t.Errorf("plaintext: %v", err)
	}
}

// TestClocksDiffer: a control plane whose clock is off, over real sockets. Ahead by less
// than what certificates are backdated by, or behind by less than they live, it serves.
// Beyond that a workload refuses what it gets: TestClockSkew.
func TestClocksDiffer(t *testing.T) {
	for _, off := range []time.Duration{0, Backdate - 10*time.Second, -50 * time.Minute} {
		a := openTest(t, func(o *Options) {
			o.Intermediate = true
			o.Now = func() time.Time { return time.Now().Add(off) }
		})
		c := startControl(t, a, a.Serve(time.Hour, caclient.DefaultServerName))
		client, _ := c.client(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.Request(ctx)
		cancel()
		if err != nil {
			t.Errorf("a clock %s off: %v", off, err)
		}
	}
}

// TestTokenIsReadAnew: a kubelet replaces the token in its file; each request bears
// the one of that moment.
func TestTokenIsReadAnew(t *testing.T) {
	a := openTest(t, nil)
	c := startControl(t, a, a.Serve(time.Hour))
	var file string
	client, good := c.client(t, func(o *caclient.Options) { file = o.TokenFile })
	for _, tc := range []struct {
		token string
		ok    bool
	}{{good, true}, {"seine1.a.b", false}, {good, true}} {
		if err := os.WriteFile(file, []byte(tc.token), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.Request(ctx)
		cancel()
		if (err == nil) != tc.ok {
			t.Errorf("token %.10s…: %v", tc.token, err)
		}
	}
}

func TestClientRefusals(t *testing.T) {
	a := openTest(t, nil)
	c := startControl(t, a, a.Serve(time.Hour))
	for name, tc := range map[string]struct {
		edit func(*caclient.Options)
		want string
	}{
		"token of another":    {func(o *caclient.Options) { o.ID = "spiffe://cluster.local/ns/default/sa/bob" }, "attested is"},
		"no token file":       {func(o *caclient.Options) { o.TokenFile += "x" }, "no such file"},
		"empty token":         {func(o *caclient.Options) { os.WriteFile(o.TokenFile, []byte(" \n"), 0o600) }, "is empty"},
		"bad token":           {func(o *caclient.Options) { os.WriteFile(o.TokenFile, []byte("seine1.a.b"), 0o600) }, "the token was refused"},
		"bundle is something": {func(o *caclient.Options) { os.WriteFile(o.BundleFile, []byte("hello"), 0o600) }, "not PEM"},
	} {
		client, _ := c.client(t, tc.edit)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.Request(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := caclient.New(caclient.Options{ID: alice, TrustDomain: "elsewhere"}); err == nil {
		t.Error("foreign trust domain taken")
	}
}

func TestServiceBounds(t *testing.T) {
	a := openTest(t, nil)
	secret := []byte(strings.Repeat("s", 32))
	now := time.Now()
	s := &Service{Authority: a, Attest: JoinTokens(secret, nil), Now: func() time.Time { return now }, Limits: Limits{Burst: 3, Rate: 1, Tracked: 2}}
	as := func(account, workload string) context.Context {
		token, err := Mint(secret, Claims{"seine-system", account, workload, now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	}
	csr := string(csrFor(t, ecKey(t, elliptic.P256()), nil))
	ask := func(ctx context.Context, r *cav1.CertificateRequest) codes.Code {
		s.once.Do(s.init)
		return status.Code(s.serve(&call{ctx: ctx, req: r}))
	}
	req := &cav1.CertificateRequest{Csr: csr, ValidityDuration: 60}
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.OK, codes.ResourceExhausted} {
		if got := ask(as("a", "a"), req); got != want {
			t.Errorf("request %d: %v", i, got)
		}
	}
	now = now.Add(time.Second)
	if got := ask(as("a", "a"), req); got != codes.OK {
		t.Errorf("a second later: %v", got)
	}
	for _, w := range []string{"b", "c", "d"} {
		if got := ask(as("a", w), req); got != codes.OK {
			t.Errorf("another workload: %v", got)
		}
	}
	if len(s.buckets.m) > 2 {
		t.Errorf("%d workloads are remembered", len(s.buckets.m))
	}
	for name, tc := range map[string]struct {
		ctx  context.Context
		req  *cav1.CertificateRequest
		want codes.Code
	}{
		"no token":           {t.Context(), req, codes.Unauthenticated},
		"basic":              {metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Basic x")), req, codes.Unauthenticated},
		"two tokens":         {metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer a", "authorization", "Bearer b")), req, codes.Unauthenticated},
		"control plane's ID": {as("seined", "x"), req, codes.PermissionDenied},
		"no CSR":             {as("e", "e"), &cav1.CertificateRequest{}, codes.InvalidArgument},
		"negative life":      {as("f", "f"), &cav1.CertificateRequest{Csr: csr, ValidityDuration: -1}, codes.InvalidArgument},
		"endless life":       {as("g", "g"), &cav1.CertificateRequest{Csr: csr, ValidityDuration: 1 << 62}, codes.InvalidArgument},
	} {
		if got := ask(tc.ctx, tc.req); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// call is a request in memory; it knows whether it was read.
type call struct {
	grpc.ServerStream
	ctx  context.Context
	req  *cav1.CertificateRequest
	read bool
	out  *cav1.CertificateResponse
}

func (c *call) Context() context.Context { return c.ctx }
func (c *call) RecvMsg(m any) error {
	c.read = true
	proto.Merge(m.(proto.Message), c.req)
	return nil
}
func (c *call) SendMsg(m any) error { c.out = m.(*cav1.CertificateResponse); return nil }

func bearing(ctx context.Context, token, address string) context.Context {
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}})
}

// TestTokenBeforeRequest: whose token is bad, its request is not read.
func TestTokenBeforeRequest(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	asked := 0
	s := &Service{Authority: openTest(t, nil), Attest: Attestors(JoinTokens(secret, nil), func(_ context.Context, token string) (Claims, error) {
		asked++
		switch token {
		case "kubernetes":
			return Claims{Namespace: "shop", ServiceAccount: "cart", Workload: "cart-1"}, nil
		case "away":
			return Claims{}, ErrUnavailable
		}
		return Claims{}, ErrToken
	})}
	s.once.Do(s.init)
	join, err := Mint(secret, Claims{"shop", "cart", "cart-2", time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	csr := string(csrFor(t, ecKey(t, elliptic.P256()), nil))
	for _, tc := range []struct {
		token string
		want  codes.Code
		read  bool
	}{
		{"kubernetes", codes.OK, true}, {join, codes.OK, true}, {"bad", codes.Unauthenticated, false},
		{"away", codes.Unavailable, false}, {"seine1.e30.AAAA", codes.Unauthenticated, false},
	} {
		c := &call{ctx: bearing(t.Context(), tc.token, "10.0.0.1"), req: &cav1.CertificateRequest{Csr: csr}}
		if err := s.serve(c); status.Code(err) != tc.want || c.read != tc.read || (c.out != nil) != (tc.want == codes.OK) {
			t.Errorf("%.10s: %v, request read: %v", tc.token, err, c.read)
		}
	}
	if asked != 3 {
		t.Errorf("the other attestor was asked %d times: join tokens are not its business", asked)
	}
}

// TestBadTokensAreLimited: an address that guesses is not looked at any more, and
// others are; what nobody can check now is no guess.
func TestBadTokensAreLimited(t *testing.T) {
	now, asked := time.Now(), 0
	s := &Service{Authority: openTest(t, nil), Now: func() time.Time { return now }, Limits: Limits{FailureBurst: 3}, Attest: func(_ context.Context, token string) (Claims, error) {
		asked++
		if token == "away" {
			return Claims{}, ErrUnavailable
		}
		return Claims{}, ErrToken
	}}
	s.once.Do(s.init)
	try := func(token, address string) codes.Code {
		return status.Code(s.serve(&call{ctx: bearing(t.Context(), token, address)}))
	}
	for range 10 {
		if got := try("away", "10.0.0.1"); got != codes.Unavailable {
			t.Fatal(got)
		}
	}
	for range 3 {
		if got := try("bad", "10.0.0.1"); got != codes.Unauthenticated {
			t.Fatal(got)
		}
	}
	if got := try("bad", "10.0.0.1"); got != codes.ResourceExhausted || asked != 13 {
		t.Errorf("%v, asked %d times", got, asked)
	}
	if got := try("bad", "10.0.0.2"); got != codes.Unauthenticated {
		t.Errorf("another address: %v", got)
	}
	if now = now.Add(5 * time.Second); try("bad", "10.0.0.1") != codes.Unauthenticated {
		t.Error("never again")
	}
}
