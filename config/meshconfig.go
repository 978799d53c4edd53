package config

import (
	"slices"
	"strings"

	meshv1 "istio.io/api/mesh/v1alpha1"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// sidecarDefaults are those of MeshConfig that package inject reads.
var sidecarDefaults = []string{"enablePrometheusMerge", "defaultConfig.concurrency", "defaultConfig.terminationDrainDuration",
	"defaultConfig.holdApplicationUntilProxyStarts", "defaultConfig.statusPort", "defaultConfig.proxyMetadata.**"}

// ProxyMetadata are the variables of proxyMetadata that say something here: whether
// names are answered, and (which they always are) whether those without an
// address get one.
var ProxyMetadata = []string{"ISTIO_META_DNS_CAPTURE", "ISTIO_META_DNS_AUTO_ALLOCATE"}

var meshConfigFields = fields(append([]string{"trustDomain", "rootNamespace", "outboundTrafficPolicy.mode", "accessLogFile", "accessLogEncoding",
	"enableAutoMtls", "pathNormalization.normalization", "defaultHttpRetryPolicy.**"}, slices.Concat(sidecarDefaults, localityFields, meshDefaultFields, meshTracingFields)...)...)

// meshConfig lays Istio's MeshConfig over the settings: the bare message, or
// what `kubectl get configmap istio` holds under data.mesh.
func (b *builder) meshConfig(f File) {
	docs, line, err := documents(f)
	if err != nil {
		b.report(Finding{Code: codeSyntax, Severity: Error, File: f.Name, Line: line, Message: err.Error(), Refused: true})
		return
	}
	if len(docs) == 0 {
		return
	}
	o := &object{root: docs[0], ref: mesh.Ref{Kind: "MeshConfig", File: f.Name, Line: docs[0].Line}, size: len(f.Data)}
	if inner := text(child(child(docs[0], "data"), "mesh")); inner != "" && text(child(docs[0], "kind")) == "ConfigMap" {
		at := child(child(docs[0], "data"), "mesh").Line // the text begins on the next line
		b.meshConfig(File{Name: f.Name, Data: []byte(strings.Repeat("\n", at) + inner)})
		return
	}
	if len(docs) > 1 {
		b.refuse(o, codeSettings, "", "a MeshConfig file holds one document, not %d", len(docs))
		return
	}
	var mc meshv1.MeshConfig
	d := &decoder{b: b, obj: o, known: meshConfigFields}
	d.message(docs[0], mc.ProtoReflect(), "", "", false, 0)
	if mc.TrustDomain != "" {
		if validHost(mc.TrustDomain, false) && strings.ToLower(mc.TrustDomain) == mc.TrustDomain {
			b.settings.TrustDomain = mc.TrustDomain
		} else {
			d.fail(codeInvalid, "trustDomain", nil, "%q is no trust domain: write a DNS name in lower case", clip(mc.TrustDomain))
		}
	}
	if mc.RootNamespace != "" {
		b.settings.RootNamespace = mc.RootNamespace
	}
	if checkLocality(d, mc.LocalityLbSetting, "localityLbSetting"); !d.bad {
		b.parts.Locality = localityProto(mc.LocalityLbSetting)
	}
	if r := mc.DefaultHttpRetryPolicy; r != nil {
		c := &routeConverter{b: b, o: o, d: d}
		b.parts.DefaultRetry = c.retry(r, nil, "defaultHttpRetryPolicy")
	}
	b.meshDefaults(d, &mc)
	b.meshTracing(d, &mc)
	if p := mc.OutboundTrafficPolicy; p != nil {
		b.settings.RegistryOnly = p.Mode == meshv1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
	}
	for _, key := range sortedKeys(mc.GetDefaultConfig().GetProxyMetadata()) {
		if !slices.Contains(ProxyMetadata, key) {
			b.note(o, codeUnsupported, Warning, sub("defaultConfig.proxyMetadata", key), "is not implemented: it is a variable of Istio's agent")
		}
	}
	switch n := mc.GetPathNormalization().GetNormalization(); n {
	case meshv1.MeshConfig_ProxyPathNormalization_DEFAULT, meshv1.MeshConfig_ProxyPathNormalization_BASE:
	case meshv1.MeshConfig_ProxyPathNormalization_NONE:
		b.note(o, codeUnsupported, Info, "pathNormalization", "NONE: paths are matched and sent on as they came; but where an AuthorizationPolicy looks at paths, those with dot segments are refused")
	default:
		b.settings.MergeSlashes = true
		b.note(o, codeUnsupported, Info, "pathNormalization", "%v: paths are matched and sent on as they came; where an AuthorizationPolicy looks at paths, those that normalization would change are refused", n)
	}
	switch mc.AccessLogFile {
	case "":
		if !isNull(child(docs[0], "accessLogFile")) {
			b.settings.AccessLog = seinev1.AccessLog_NONE
		}
	default:
		if mc.AccessLogFile != "/dev/stdout" {
			b.note(o, codeUnsupported, Warning, "accessLogFile", "a path other than /dev/stdout is not implemented in this version: logs go to the proxy's output")
		}
		b.settings.AccessLog = seinev1.AccessLog_TEXT
		if mc.AccessLogEncoding == meshv1.MeshConfig_JSON {
			b.settings.AccessLog = seinev1.AccessLog_JSON
		}
	}
	if v := mc.EnableAutoMtls; v != nil && !v.Value {
		b.note(o, codeUnsupported, Warning, "enableAutoMtls", "mutual TLS between sidecars is always automatic here: use a DestinationRule with tls.mode DISABLE")
	}
}
