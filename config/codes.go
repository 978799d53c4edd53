package config

// The codes of findings. They are stable: a code never changes its meaning and
// is never given to something else.
const (
	codeSyntax       = "SEINE0001" // not YAML, not UTF-8, too large
	codeHeader       = "SEINE0002" // apiVersion, kind or metadata.name is missing or malformed
	codeUnknownKind  = "SEINE0003" // no such kind, or not in that API version
	codeUnknownField = "SEINE0004" // a field that the kind does not have
	codeType         = "SEINE0005" // a value of the wrong type, an unknown enum value
	codeDuplicateKey = "SEINE0006" // a key written twice
	codeLimit        = "SEINE0007" // too deep, too many
	codeSecurity     = "SEINE0008" // a security resource that is not implemented: refused rather than run open
	codeKindIgnored  = "SEINE0009" // an Istio or Gateway API kind that is not implemented
	codeKindSkipped  = "SEINE0010" // a Kubernetes kind that does not matter here
	codeUnsupported  = "SEINE0011" // a field that is not implemented
	codeTwice        = "SEINE0012" // two resources of one kind, namespace and name
	codeDeprecated   = "SEINE0013" // an old way to write something
	codeInvalid      = "SEINE0014" // a value that cannot be
	codeDuration     = "SEINE0015" // a bad duration
	codeRegex        = "SEINE0016" // a bad regular expression
	codeHeaderName   = "SEINE0017" // a bad header name or value
	codeSettings     = "SEINE0018" // about the mesh's settings

	codeNoHost       = "SEINE0101" // a destination whose host no service has
	codeNoSubset     = "SEINE0102" // a subset that no DestinationRule defines
	codeEmptySubset  = "SEINE0103" // a subset that selects no workload
	codeNoPort       = "SEINE0104" // a port that the service does not have
	codeEmptyService = "SEINE0105" // a service that selects no workload
	codeRuleNoHost   = "SEINE0106" // a DestinationRule whose host no service has
	codeRouteNoHost  = "SEINE0107" // a VirtualService whose host no service has
	codeAmbiguous    = "SEINE0108" // a destination without port on a service with several
	codePolicyTarget = "SEINE0109" // a policy that holds for no workload or port
	codeMTLSConflict = "SEINE0110" // client and server disagree about TLS
	codeNoService    = "SEINE0111" // a workload that no service selects
	codeTargetPort   = "SEINE0112" // a named targetPort that a workload does not have

	codeWeights       = "SEINE0201" // weights that do not add up
	codeUnreachable   = "SEINE0202" // a rule that can never match
	codeHostConflict  = "SEINE0203" // two VirtualServices for one host
	codeRuleConflict  = "SEINE0204" // two DestinationRules for one host that contradict each other
	codePolicyClash   = "SEINE0205" // two authentication policies at the same place
	codeServiceClash  = "SEINE0206" // two services with one host or address
	codeUselessMatch  = "SEINE0207" // a match that an earlier one of the same rule covers
	codeRootNamespace = "SEINE0208" // which namespace is the root
	codePublishClash  = "SEINE0209" // two published ports with one number
	codeRetries       = "SEINE0215" // retries that do not do what they seem to
	codeNoEffect      = "SEINE0216" // a feature that is written such that it does nothing

	codeTraceProvider  = "SEINE0401" // a tracing provider that is not there, or cannot be used
	codeTelemetryClash = "SEINE0402" // two Telemetry resources at the same place

	codeRouteParent   = "SEINE0301" // a Gateway API route's parent that is not there, or that it cannot be attached to
	codeRouteBackend  = "SEINE0302" // a rule of such a route that cannot be done as written: 500
	codeRouteConflict = "SEINE0303" // routes of several kinds on one port of a Service
	codeRouteNoEffect = "SEINE0304" // a part of such a route that does nothing
)

// Conflict reports whether a code says that another resource holds instead.
func Conflict(code string) bool {
	switch code {
	case codeHostConflict, codeRuleConflict, codePolicyClash, codeServiceClash, codeTwice:
		return true
	}
	return false
}

// istioCodes are the messages of `istioctl analyze` that say the same.
var istioCodes = map[string]string{
	codeUnknownField: "IST0106", codeType: "IST0106", codeInvalid: "IST0106", codeDuration: "IST0106",
	codeRegex: "IST0106", codeHeaderName: "IST0106", codeUnknownKind: "IST0106",
	codeNoHost: "IST0101", codeNoSubset: "IST0101",
	codeMTLSConflict: "IST0113", codeHostConflict: "IST0109", codeUnreachable: "IST0130", codeUselessMatch: "IST0131",
	codeDeprecated: "IST0002",
}
