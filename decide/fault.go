package decide

import (
	"math/bits"
	"slices"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

// million is the whole of a share that is drawn in millionths.
const million = 1_000_000

// Drawn reports whether a draw, uniform over all of uint64, falls into a share
// of perMillion millionths.
func Drawn(draw uint64, perMillion uint32) bool {
	at, _ := bits.Mul64(draw, million)
	return at < uint64(perMillion)
}

// Fault is a compiled http.fault: what Envoy's fault filter does, which in
// Istio's chain stands before CORS and before the router, so that neither the
// route's timeout nor its retries know of it.
type Fault struct {
	Proto *seinev1.Fault

	delay       time.Duration
	delayShare  uint32
	abortShare  uint32
	abortStatus int
	abortGRPC   bool
}

// Delay is how long the request is held back; 0: it is not.
func (f *Fault) Delay(draw uint64) time.Duration {
	if f.delay == 0 || !Drawn(draw, f.delayShare) {
		return 0
	}
	return f.delay
}

// Abort is what the request is answered with after its delay, if it is: an HTTP
// status, or with grpc a grpc-status under HTTP 200 (Envoy's getAbortStatus).
func (f *Fault) Abort(draw uint64) (status int, grpc, ok bool) {
	if f.abortShare == 0 || !Drawn(draw, f.abortShare) {
		return 0, false, false
	}
	return f.abortStatus, f.abortGRPC, true
}

func compileFault(p *seinev1.Fault) (*Fault, error) {
	if p == nil {
		return nil, nil
	}
	f := &Fault{Proto: p}
	if d := p.Delay; d != nil {
		if d.Fixed.CheckValid() != nil || d.Fixed.AsDuration() <= 0 || d.PerMillion > million {
			return nil, invalid("fault delay of %v for %d millionths", d.Fixed, d.PerMillion)
		}
		f.delay, f.delayShare = d.Fixed.AsDuration(), d.PerMillion
	}
	if a := p.Abort; a != nil {
		f.abortShare, f.abortStatus = a.PerMillion, int(a.HttpStatus)
		if a.HttpStatus == 0 {
			f.abortStatus, f.abortGRPC = int(a.GrpcStatus), true
		}
		if a.PerMillion > million || !f.abortGRPC && (a.HttpStatus < 200 || a.HttpStatus > 599) || f.abortGRPC && a.GrpcStatus >= uint32(len(grpcCodes)) {
			return nil, invalid("fault abort with status %d or %d for %d millionths", a.HttpStatus, a.GrpcStatus, a.PerMillion)
		}
	}
	return f, nil
}

// grpcCodes are gRPC's status codes by number (google/rpc/code.proto).
var grpcCodes = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// GRPCCode is the number of a status of gRPC by its name, such as UNAVAILABLE.
func GRPCCode(name string) (int, bool) {
	i := slices.Index(grpcCodes, name)
	return max(i, 0), i >= 0
}

// GRPCCodeName is the name of a status of gRPC.
func GRPCCodeName(code int) string {
	if code < 0 || code >= len(grpcCodes) {
		return "UNKNOWN"
	}
	return grpcCodes[code]
}
