package telemetry

// Flag is why a request or connection ended other than by an ordinary answer
// of the upstream: Envoy's response flags, one for each request.
type Flag uint8

// The flags. FlagNone is an ordinary answer. The order is part of no contract;
// only the letters are.
const (
	FlagNone  Flag = iota
	FlagDC         // downstream connection termination
	FlagDF         // DNS resolution failed
	FlagDI         // delay injected
	FlagDO         // dropped by an overloaded endpoint's policy
	FlagDPE        // downstream protocol error
	FlagDR         // downstream remote reset
	FlagDT         // duration timeout
	FlagFI         // fault injected
	FlagIH         // invalid header in a strictly checked field
	FlagLH         // local health check failed
	FlagLR         // local reset
	FlagNC         // no cluster found
	FlagNFCF       // no filter configuration
	FlagNR         // no route
	FlagOM         // overload manager
	FlagRFCF       // response from cache
	FlagRL         // rate limited
	FlagRLSE       // rate limit service error
	FlagSI         // stream idle timeout
	FlagUAEX       // denied by an authorization service
	FlagUC         // upstream connection termination
	FlagUF         // upstream connection failure
	FlagUH         // no healthy upstream
	FlagUMSDR      // upstream maximum stream duration
	FlagUO         // upstream overflow
	FlagUPE        // upstream protocol error
	FlagUR         // upstream remote reset
	FlagURX        // retry or connect attempts exhausted
	FlagUT         // upstream request timeout

	// The last try's flag beside URX, as Envoy writes them.
	FlagUFURX
	FlagUCURX
	FlagUPEURX
	FlagUTURX
	// A delay beside an abort.
	FlagDIFI

	// NumFlags is how many flags there are, FlagNone among them.
	NumFlags
)

// String returns Envoy's letters, "-" for FlagNone.
func (f Flag) String() string {
	if int(f) < len(flags) {
		return flags[f].letters
	}
	return "-"
}

// Meaning is one sentence for a person; empty for FlagNone.
func (f Flag) Meaning() string {
	if int(f) < len(flags) {
		return flags[f].meaning
	}
	return ""
}

// Exhausted is f of a request whose retries are all used up.
func (f Flag) Exhausted() Flag {
	switch f {
	case FlagUF:
		return FlagUFURX
	case FlagUC:
		return FlagUCURX
	case FlagUPE:
		return FlagUPEURX
	case FlagUT:
		return FlagUTURX
	case FlagNone:
		return FlagURX
	}
	return f
}

var flags = [NumFlags]struct{ letters, meaning string }{
	FlagNone:  {"-", ""},
	FlagDC:    {"DC", "The client closed its connection before the answer was complete."},
	FlagDF:    {"DF", "The name of the upstream could not be resolved."},
	FlagDI:    {"DI", "The request was delayed by a configured fault."},
	FlagDO:    {"DO", "The request was dropped because the endpoints' drop policy says so."},
	FlagDPE:   {"DPE", "The client broke the protocol; nothing was forwarded."},
	FlagDR:    {"DR", "The client reset the stream."},
	FlagDT:    {"DT", "The request or connection was open longer than its maximum duration."},
	FlagFI:    {"FI", "The request was aborted by a configured fault."},
	FlagIH:    {"IH", "A header that is checked strictly had a value that is not allowed."},
	FlagLH:    {"LH", "The workload failed its sidecar's health check."},
	FlagLR:    {"LR", "The proxy reset the stream or connection itself."},
	FlagNC:    {"NC", "The destination of the route is not known: the control plane did not answer for it, or it does not exist."},
	FlagNFCF:  {"NFCF", "Configuration that the route needs has not arrived."},
	FlagNR:    {"NR", "No route matches the request."},
	FlagOM:    {"OM", "The proxy is out of a bounded resource and refused the request to protect itself."},
	FlagRFCF:  {"RFCF", "The answer came from a cache."},
	FlagRL:    {"RL", "The request was over a rate limit."},
	FlagRLSE:  {"RLSE", "The rate limit service could not be asked."},
	FlagSI:    {"SI", "The stream was idle longer than its idle timeout."},
	FlagUAEX:  {"UAEX", "The external authorization service denied the request."},
	FlagUC:    {"UC", "The upstream closed the connection before the answer was complete."},
	FlagUF:    {"UF", "No connection to the upstream could be made: refused, timed out, or its identity is not the expected one."},
	FlagUH:    {"UH", "The destination has no healthy endpoint."},
	FlagUMSDR: {"UMSDR", "The upstream stream was open longer than its maximum duration."},
	FlagUO:    {"UO", "A circuit breaker is open: connections or requests to the destination are at their limit."},
	FlagUPE:   {"UPE", "The upstream broke the protocol."},
	FlagUR:    {"UR", "The upstream reset the stream."},
	FlagURX:   {"URX", "All retries or connection attempts are used up."},
	FlagUT:    {"UT", "The upstream did not answer within the timeout of the route."},

	FlagUFURX:  {"UF,URX", "No connection to any upstream that was tried could be made, and all retries are used up."},
	FlagUCURX:  {"UC,URX", "The last upstream that was tried closed the connection, and all retries are used up."},
	FlagUPEURX: {"UPE,URX", "The last upstream that was tried broke the protocol, and all retries are used up."},
	FlagUTURX:  {"UT,URX", "The last try got no answer within the time for one, and all retries are used up."},
	FlagDIFI:   {"DI,FI", "The request was delayed, and then aborted, by a configured fault."},
}

// FlagOf returns the flag of Envoy's letters; FlagNone for what is none.
func FlagOf(letters string) Flag {
	for f := range NumFlags {
		if flags[f].letters == letters {
			return f
		}
	}
	return FlagNone
}

// Failed says whether an outcome counts against the success rate: a server's error,
// or no answer at all (code 0) unless the client went away by itself.
func Failed(code int, flag Flag) bool {
	if code == 0 {
		return flag != FlagDC && flag != FlagNone
	}
	return code >= 500
}
