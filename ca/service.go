package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	cav1 "github.com/seinemesh/seine/api/ca/v1"
)

const (
	serviceName = "istio.v1.auth.IstioCertificateService"
	methodName  = "CreateCertificate"
)

// Service answers Istio's CreateCertificate. Set the fields, then Register it.
type Service struct {
	Authority *Authority
	// Attest returns who bears a token. Its error reaches the log, not the caller,
	// who learns only that the token was refused, or that it has expired.
	Attest func(ctx context.Context, token string) (Claims, error)
	Log    *slog.Logger     // nil: discards
	Now    func() time.Time // nil: time.Now
	Limits Limits

	once      sync.Once
	signing   chan struct{}
	attesting chan struct{}
	buckets   buckets // by workload
	failures  buckets // by address

	issued, refused atomic.Uint64
}

// Limits bound a Service; zero values have defaults.
type Limits struct {
	Signing int     // requests that are checked and signed at once; 0: 8
	Rate    float64 // certificates per second and workload in the long run; 0: 2
	Burst   int     // certificates at once for a workload; 0: 10
	Tracked int     // workloads whose rate is remembered; 0: 16384

	Attesting    int     // tokens that are looked at at once; 0: 32
	FailureRate  float64 // bad tokens per second and address in the long run; 0: 0.2
	FailureBurst int     // bad tokens at once from an address; 0: 20
}

// ErrUnavailable says that an Attest could not find out whose token it is, which is
// no fault of the token: the caller may try again.
var ErrUnavailable = errors.New("ca: tokens cannot be checked at this moment")

// JoinTokens returns an Attest for tokens that were minted with secret.
func JoinTokens(secret []byte, now func() time.Time) func(context.Context, string) (Claims, error) {
	if now == nil {
		now = time.Now
	}
	return func(_ context.Context, token string) (Claims, error) { return Verify(secret, token, now()) }
}

// Attestors returns an Attest for join tokens, which are known by how they begin,
// and for another kind beside them.
func Attestors(join, other func(context.Context, string) (Claims, error)) func(context.Context, string) (Claims, error) {
	return func(ctx context.Context, token string) (Claims, error) {
		if strings.HasPrefix(token, tokenPrefix) {
			return join(ctx, token)
		}
		return other(ctx, token)
	}
}

func (s *Service) init() {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Limits.Signing <= 0 {
		s.Limits.Signing = 8
	}
	if s.Limits.Rate <= 0 {
		s.Limits.Rate = 2
	}
	if s.Limits.Burst <= 0 {
		s.Limits.Burst = 10
	}
	if s.Limits.Tracked <= 0 {
		s.Limits.Tracked = 16384
	}
	if s.Limits.Attesting <= 0 {
		s.Limits.Attesting = 32
	}
	if s.Limits.FailureRate <= 0 {
		s.Limits.FailureRate = 0.2
	}
	if s.Limits.FailureBurst <= 0 {
		s.Limits.FailureBurst = 20
	}
	s.signing = make(chan struct{}, s.Limits.Signing)
	s.attesting = make(chan struct{}, s.Limits.Attesting)
	s.failures = buckets{rate: s.Limits.FailureRate, burst: float64(s.Limits.FailureBurst), most: s.Limits.Tracked, m: map[string]bucket{}}
	s.buckets = buckets{rate: s.Limits.Rate, burst: float64(s.Limits.Burst), most: s.Limits.Tracked, m: map[string]bucket{}}
}

// Register adds the service to a gRPC server, under Istio's name.
//
// On the wire a call of one message each way is a stream of one message each way.
// Served as one, nothing that the caller sent is read before its token was found good.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	s.once.Do(s.init)
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: methodName, Handler: func(_ any, st grpc.ServerStream) error { return s.serve(st) }}},
	}, s)
}

// Counts returns how many certificates were issued and requests refused.
func (s *Service) Counts() (issued, refused uint64) { return s.issued.Load(), s.refused.Load() }

// serve signs the CSR for whom the token in "authorization: Bearer …" names. Codes:
// Unauthenticated (no token, or a bad one), InvalidArgument (CSR), ResourceExhausted
// (rate), Unavailable (nobody can say now whose token it is), FailedPrecondition (the
// authority has expired).
func (s *Service) serve(st grpc.ServerStream) error {
	ctx := st.Context()
	out, who, err := s.create(st)
	if err != nil {
		s.refused.Add(1)
		var r *refusal
		if !errors.As(err, &r) {
			r = &refusal{codes.Internal, "the certificate authority failed; its log says why", err}
		}
		s.Log.LogAttrs(ctx, slog.LevelWarn, "certificate refused", slog.String("peer", peerAddress(ctx)),
			slog.String("workload", who), slog.String("code", r.code.String()), slog.Any("err", r.cause))
		return status.Error(r.code, r.say)
	}
	s.issued.Add(1)
	s.Log.LogAttrs(ctx, slog.LevelInfo, "certificate issued", slog.String("peer", peerAddress(ctx)),
		slog.String("workload", who), slog.String("id", out.ID),
		slog.String("serial", out.Leaf.SerialNumber.Text(16)), slog.Time("not_after", out.NotAfter))
	return st.SendMsg(&cav1.CertificateResponse{CertChain: out.Chain})
}

// refusal is an error with what the caller may know of it.
type refusal struct {
	code  codes.Code
	say   string
	cause error
}

func (r *refusal) Error() string { return r.say + ": " + r.cause.Error() }
func (r *refusal) Unwrap() error { return r.cause }

var (
	errNoToken = errors.New("no bearer token")
	errRate    = errors.New("too many requests")
	errTTL     = errors.New("validity_duration out of range")
)

func (s *Service) create(st grpc.ServerStream) (out *Issued, who string, err error) {
	ctx := st.Context()
	claims, err := s.attest(ctx)
	if err != nil {
		return nil, "", err
	}
	who = claims.Namespace + "/" + claims.Workload
	if !s.buckets.take(claims.Namespace+"/"+claims.ServiceAccount+"/"+claims.Workload, s.Now()) {
		return nil, who, &refusal{codes.ResourceExhausted, "too many certificates asked for " + who + ": wait a second", errRate}
	}
	req := &cav1.CertificateRequest{}
	if err := st.RecvMsg(req); err != nil {
		return nil, who, &refusal{codes.InvalidArgument, "no readable certificate request came", err}
	}
	const maxSeconds = int64(100 * 365 * 24 * time.Hour / time.Second)
	seconds := req.GetValidityDuration()
	if seconds < 0 || seconds > maxSeconds {
		return nil, who, &refusal{codes.InvalidArgument, "validity_duration is out of range", errTTL}
	}
	select {
	case s.signing <- struct{}{}:
		defer func() { <-s.signing }()
	case <-ctx.Done():
		return nil, who, &refusal{codes.ResourceExhausted, "the certificate authority is busy: try again", ctx.Err()}
	}
	id, err := s.Authority.WorkloadID(claims.Namespace, claims.ServiceAccount)
	if err != nil {
		return nil, who, &refusal{codes.PermissionDenied, err.Error(), err}
	}
	if id == s.Authority.ServerID() {
		// Who has this one is the control plane to every proxy. It signs its own.
		return nil, who, &refusal{codes.PermissionDenied, "the control plane's identity is not given out", ErrIdentity}
	}
	out, err = s.Authority.Sign([]byte(req.GetCsr()), id, who, time.Duration(seconds)*time.Second, s.Now())
	switch {
	case errors.Is(err, ErrCSR):
		return nil, who, &refusal{codes.InvalidArgument, err.Error(), err}
	case errors.Is(err, ErrExpired):
		return nil, who, &refusal{codes.FailedPrecondition, err.Error(), err}
	}
	return out, who, err
}

// attest finds out who bears the request's token. Whoever sends bad ones is
// answered ever more rarely, and only so many are looked at at once: a look may be a
// question to the Kubernetes API.
func (s *Service) attest(ctx context.Context) (Claims, error) {
	token, err := bearer(ctx)
	if err != nil {
		return Claims{}, &refusal{codes.Unauthenticated, "a token is needed in the authorization metadata (Bearer)", err}
	}
	from := peerAddress(ctx)
	if !s.failures.has(from, s.Now()) {
		return Claims{}, &refusal{codes.ResourceExhausted, "too many tokens from this address were refused: wait a minute", errRate}
	}
	busy := &refusal{codes.Unavailable, "the certificate authority is busy: try again", nil}
	select {
	case s.attesting <- struct{}{}:
		defer func() { <-s.attesting }()
	case <-ctx.Done():
		busy.cause = ctx.Err()
		return Claims{}, busy
	}
	claims, err := s.Attest(ctx, token)
	switch {
	case err == nil:
		return claims, nil
	case errors.Is(err, ErrUnavailable) || ctx.Err() != nil:
		return Claims{}, &refusal{codes.Unavailable, "nobody can say at this moment whose token it is: try again", err}
	}
	s.failures.take(from, s.Now())
	say := "the token was refused"
	if errors.Is(err, ErrTokenExpired) {
		say = "the token has expired: a new one is needed in the token file"
	}
	return Claims{}, &refusal{codes.Unauthenticated, say, err}
}

// bearer returns the one token of the request.
func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", fmt.Errorf("%w: %d authorization values", errNoToken, len(values))
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errNoToken
	}
	return token, nil
}

func peerAddress(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
		return host
	}
	return p.Addr.String()
}

// buckets limit each workload's rate; it is bounded, and safe for concurrent use.
type buckets struct {
	rate, burst float64
	most        int

	mu sync.Mutex
	m  map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// take says whether key may have one more now.
func (b *buckets) take(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.m[key]
	if !ok {
		if len(b.m) >= b.most {
			b.evict(now)
		}
		e = bucket{b.burst, now}
	}
	e.tokens = min(b.burst, e.tokens+max(0, now.Sub(e.at).Seconds())*b.rate)
	e.at = now
	ok = e.tokens >= 1
	if ok {
		e.tokens--
	}
	b.m[key] = e
	return ok
}

// has says whether take would say yes now, and takes nothing.
func (b *buckets) has(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.m[key]
	return !ok || e.tokens+max(0, now.Sub(e.at).Seconds())*b.rate >= 1
}

// evict forgets those whose bucket is full again; if there is none, any one.
func (b *buckets) evict(now time.Time) {
	for key, e := range b.m {
		if e.tokens+now.Sub(e.at).Seconds()*b.rate >= b.burst {
			delete(b.m, key)
		}
	}
	for key := range b.m {
		if len(b.m) < b.most {
			return
		}
		delete(b.m, key)
	}
}
