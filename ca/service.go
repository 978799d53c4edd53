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

	once    sync.Once
	signing chan struct{}
	buckets buckets

	issued, refused atomic.Uint64
}

// Limits bound a Service; zero values have defaults.
type Limits struct {
	Signing int     // requests that are checked and signed at once; 0: 8
	Rate    float64 // certificates per second and workload in the long run; 0: 2
	Burst   int     // certificates at once for a workload; 0: 10
	Tracked int     // workloads whose rate is remembered; 0: 16384
}

// JoinTokens returns an Attest for tokens that were minted with secret.
func JoinTokens(secret []byte, now func() time.Time) func(context.Context, string) (Claims, error) {
	if now == nil {
		now = time.Now
	}
	return func(_ context.Context, token string) (Claims, error) { return Verify(secret, token, now()) }
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
	s.signing = make(chan struct{}, s.Limits.Signing)
	s.buckets = buckets{rate: s.Limits.Rate, burst: float64(s.Limits.Burst), most: s.Limits.Tracked, m: map[string]bucket{}}
}

// Register adds the service to a gRPC server, under Istio's name.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	s.once.Do(s.init)
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: methodName, Handler: func(
			srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor,
		) (any, error) {
			in := &cav1.CertificateRequest{}
			if err := decode(in); err != nil {
				return nil, err
			}
			handle := func(ctx context.Context, req any) (any, error) {
				return s.CreateCertificate(ctx, req.(*cav1.CertificateRequest))
			}
			if interceptor == nil {
				return handle(ctx, in)
			}
			info := &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceName + "/" + methodName}
			return interceptor(ctx, in, info, handle)
		}}},
	}, s)
}

// Counts returns how many certificates were issued and requests refused.
func (s *Service) Counts() (issued, refused uint64) { return s.issued.Load(), s.refused.Load() }

// CreateCertificate signs the CSR for whom the token in "authorization: Bearer …"
// names. Codes: Unauthenticated (no token, or a bad one), InvalidArgument (CSR),
// ResourceExhausted (rate), FailedPrecondition (the authority has expired).
func (s *Service) CreateCertificate(ctx context.Context, req *cav1.CertificateRequest) (*cav1.CertificateResponse, error) {
	s.once.Do(s.init)
	out, who, err := s.create(ctx, req)
	if err != nil {
		s.refused.Add(1)
		var r *refusal
		if !errors.As(err, &r) {
			r = &refusal{codes.Internal, "the certificate authority failed; its log says why", err}
		}
		s.Log.LogAttrs(ctx, slog.LevelWarn, "certificate refused", slog.String("peer", peerAddress(ctx)),
			slog.String("workload", who), slog.String("code", r.code.String()), slog.Any("err", r.cause))
		return nil, status.Error(r.code, r.say)
	}
	s.issued.Add(1)
	s.Log.LogAttrs(ctx, slog.LevelInfo, "certificate issued", slog.String("peer", peerAddress(ctx)),
		slog.String("workload", who), slog.String("id", out.ID),
		slog.String("serial", out.Leaf.SerialNumber.Text(16)), slog.Time("not_after", out.NotAfter))
	return &cav1.CertificateResponse{CertChain: out.Chain}, nil
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

func (s *Service) create(ctx context.Context, req *cav1.CertificateRequest) (out *Issued, who string, err error) {
	token, err := bearer(ctx)
	if err != nil {
		return nil, "", &refusal{codes.Unauthenticated, "a join token is needed in the authorization metadata (Bearer)", err}
	}
	claims, err := s.Attest(ctx, token)
	if err != nil {
		say := "the join token was refused: it is malformed or was made with another secret"
		if errors.Is(err, ErrTokenExpired) {
			say = "the join token has expired: a new one is needed in the token file"
		}
		return nil, "", &refusal{codes.Unauthenticated, say, err}
	}
	who = claims.Namespace + "/" + claims.Workload
	if !s.buckets.take(claims.Namespace+"/"+claims.ServiceAccount+"/"+claims.Workload, s.Now()) {
		return nil, who, &refusal{codes.ResourceExhausted, "too many certificates asked for " + who + ": wait a second", errRate}
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
	out, err = s.Authority.Sign([]byte(req.GetCsr()), id, time.Duration(seconds)*time.Second, s.Now())
	switch {
	case errors.Is(err, ErrCSR):
		return nil, who, &refusal{codes.InvalidArgument, err.Error(), err}
	case errors.Is(err, ErrExpired):
		return nil, who, &refusal{codes.FailedPrecondition, err.Error(), err}
	}
	return out, who, err
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

// evict forgets those whose bucket is full again; if there is none, any one. Only a
// bearer of a valid token gets here.
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
