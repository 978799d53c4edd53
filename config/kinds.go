package config

import (
	"slices"
	"strings"
)

// treatment is what is done with a kind.
type treatment uint8

const (
	taken    treatment = iota // read into the model
	ignored                   // known, not implemented: a warning
	refused                   // about security, not implemented: an error
	skipped                   // does not matter here
	template                  // skipped, but its pod template tells which workloads there will be
)

type kind struct {
	group, name string
	versions    []string
	treatment   treatment
	clustered   bool // has no namespace
}

var istioVersions = []string{"v1alpha3", "v1beta1", "v1"}

// kinds are all that we know by name. Kubernetes kinds of other groups are
// skipped by their group.
var kinds = []kind{
	{"", "Service", []string{"v1"}, taken, false},
	{"networking.istio.io", "VirtualService", istioVersions, taken, false},
	{"networking.istio.io", "DestinationRule", istioVersions, taken, false},
	{"networking.istio.io", "ServiceEntry", istioVersions, taken, false},
	{"networking.istio.io", "WorkloadEntry", istioVersions, taken, false},
	{"networking.istio.io", "Sidecar", istioVersions, taken, false},
	{"security.istio.io", "PeerAuthentication", []string{"v1beta1", "v1"}, taken, false},
	{"security.istio.io", "AuthorizationPolicy", []string{"v1beta1", "v1"}, taken, false},
	{"authentication.istio.io", "Policy", []string{"v1alpha1"}, taken, false},
	{"authentication.istio.io", "MeshPolicy", []string{"v1alpha1"}, taken, true},
	{"telemetry.istio.io", "Telemetry", []string{"v1alpha1", "v1"}, taken, false},
	{gatewayGroup, "HTTPRoute", []string{"v1beta1", "v1"}, taken, false},
	{gatewayGroup, "GRPCRoute", []string{"v1alpha2", "v1"}, taken, false},
	{trafficGroup, "RateLimit", []string{"v1"}, taken, false},
	{localGroup, "Workload", []string{"v1"}, taken, false},
	{localGroup, "Gateway", []string{"v1"}, taken, false},

	{"networking.istio.io", "Gateway", istioVersions, ignored, false},
	{"networking.istio.io", "WorkloadGroup", istioVersions, ignored, false},
	{"networking.istio.io", "EnvoyFilter", istioVersions, ignored, false},
	{"networking.istio.io", "ProxyConfig", []string{"v1beta1"}, ignored, false},
	{gatewayGroup, "ReferenceGrant", nil, skipped, false}, // routes with Services as parents need none
	{gatewayGroup, "TCPRoute", nil, ignored, false},
	{gatewayGroup, "TLSRoute", nil, ignored, false},
	{gatewayGroup, "Gateway", nil, ignored, false},
	{gatewayGroup, "GatewayClass", nil, ignored, true},
	{"networking.k8s.io", "Ingress", nil, ignored, false},
	{"", "Endpoints", []string{"v1"}, ignored, false},
	{"discovery.k8s.io", "EndpointSlice", nil, ignored, false},

	{"security.istio.io", "RequestAuthentication", nil, refused, false},
	{"rbac.istio.io", "ServiceRole", nil, refused, false},
	{"rbac.istio.io", "ServiceRoleBinding", nil, refused, false},
	{"rbac.istio.io", "AuthorizationPolicy", nil, refused, false},
	{"rbac.istio.io", "RbacConfig", nil, refused, true},
	{"rbac.istio.io", "ClusterRbacConfig", nil, refused, true},
	{"extensions.istio.io", "WasmPlugin", nil, refused, false},
	{"config.istio.io", "denier", nil, refused, false},
	{"config.istio.io", "listchecker", nil, refused, false},
	{"config.istio.io", "handler", nil, refused, false},

	{"", "Pod", []string{"v1"}, template, false},
	{"apps", "Deployment", nil, template, false},
	{"extensions", "Deployment", nil, template, false},
	{"apps", "StatefulSet", nil, template, false},
	{"apps", "DaemonSet", nil, template, false},
	{"apps", "ReplicaSet", nil, template, false},
	{"", "ReplicationController", []string{"v1"}, template, false},
	{"", "Namespace", []string{"v1"}, skipped, true},
	{"", "Node", []string{"v1"}, skipped, true},
	{"", "PersistentVolume", []string{"v1"}, skipped, true},
	{"", "ConfigMap", []string{"v1"}, skipped, false},
	{"", "Secret", []string{"v1"}, skipped, false},
	{"", "ServiceAccount", []string{"v1"}, skipped, false},
	{"", "PersistentVolumeClaim", []string{"v1"}, skipped, false},
	{"", "LimitRange", []string{"v1"}, skipped, false},
	{"", "ResourceQuota", []string{"v1"}, skipped, false},
	{"", "PodTemplate", []string{"v1"}, skipped, false},
	{"", "Event", []string{"v1"}, skipped, false},
}

// instead is what to do without a kind that is not implemented, by group and
// name.
var instead = map[string]string{
	"networking.istio.io/Gateway":       "routes with gateways: [mesh] hold; let a gateway of another make, with a sidecar, take what comes from outside",
	"networking.istio.io/WorkloadGroup": "write a WorkloadEntry for each machine",
	"networking.istio.io/EnvoyFilter":   "there is no Envoy to patch; rate limits are a RateLimit (traffic.seine.dev/v1), timeouts, retries and header operations a VirtualService, TCP and HTTP limits a DestinationRule",
	"networking.istio.io/ProxyConfig":   "annotate the pods with proxy.istio.io/config, or set MeshConfig's defaultConfig",
}

// skippedGroups are API groups no kind of which says anything about traffic.
// Those of Istio, of the Gateway API and of networking.k8s.io are named above;
// what they do not name is unknown there.
var skippedGroups = []string{
	"apps", "batch", "autoscaling", "policy", "extensions", "rbac.authorization.k8s.io", "apiextensions.k8s.io",
	"admissionregistration.k8s.io", "storage.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "certificates.k8s.io",
	"node.k8s.io", "events.k8s.io", "apiregistration.k8s.io", "networking.k8s.io", "metrics.k8s.io", "install.istio.io",
	"kustomize.config.k8s.io", "monitoring.coreos.com", "cert-manager.io", "argoproj.io", "config.istio.io",
}

// lookup finds a kind; message says what is wrong where there is none.
func lookup(group, version, name string) (k kind, message string) {
	for _, k := range kinds {
		if k.group == group && k.name == name {
			if len(k.versions) > 0 && !slices.Contains(k.versions, version) {
				return k, "there is no version " + clip(version) + " of " + name + ": write apiVersion: " + apiVersion(group, k.versions[len(k.versions)-1])
			}
			return k, ""
		}
	}
	if slices.Contains(skippedGroups, group) {
		return kind{group: group, name: name, treatment: skipped}, ""
	}
	var names, elsewhere []string
	for _, k := range kinds {
		if k.name == name {
			v := "v1"
			if len(k.versions) > 0 {
				v = k.versions[len(k.versions)-1]
			}
			elsewhere = append(elsewhere, apiVersion(k.group, v))
		}
		names = append(names, k.name)
	}
	if len(elsewhere) > 0 {
		return k, "there is no " + name + " in " + clip(apiVersion(group, version)) + ": write apiVersion: " + strings.Join(slices.Compact(elsewhere), " or ")
	}
	return k, "unknown kind " + clip(name) + " of " + clip(apiVersion(group, version)) + didYouMean(name, names)
}

func apiVersion(group, version string) string {
	if group == "" {
		return version
	}
	return group + "/" + version
}

// Custom is a kind of custom resource that Build has something to say about.
type Custom struct {
	Versions []string // that it takes, the newest last; none: any
	// Taken kinds make the mesh what it is; of the others Build only says that
	// they have no effect.
	Taken bool
}

// Kinds are a group's, by name. Kubernetes' own groups have none: their objects
// are not read as custom resources.
func Kinds(group string) map[string]Custom {
	if !strings.Contains(group, ".") || group == localGroup || strings.HasSuffix(group, ".k8s.io") && group != "gateway.networking.k8s.io" {
		return nil
	}
	out := map[string]Custom{}
	for _, k := range kinds {
		if k.group == group && k.treatment != skipped && k.treatment != template {
			out[k.name] = Custom{k.versions, k.treatment == taken}
		}
	}
	return out
}
