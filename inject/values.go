package inject

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Values say what a sidecar is like where no annotation says otherwise: key
// "injector" of ConfigMap "seine". Start from Defaults.
type Values struct {
	Image            string                      `json:"image,omitempty"`
	ImagePullPolicy  corev1.PullPolicy           `json:"imagePullPolicy,omitempty"`
	ImagePullSecrets []string                    `json:"imagePullSecrets,omitempty"`
	Control          string                      `json:"control,omitempty"`     // HOST:PORT of seined
	TrustDomain      string                      `json:"trustDomain,omitempty"` // "": cluster.local
	NativeSidecar    Tristate                    `json:"nativeSidecar,omitempty"`
	CNI              bool                        `json:"cni,omitempty"` // a CNI plugin makes the redirect, no init container
	Resources        corev1.ResourceRequirements `json:"resources,omitempty"`
	InitResources    corev1.ResourceRequirements `json:"initResources,omitempty"`

	Concurrency   int32           `json:"concurrency,omitempty"` // event loops; 0: by the CPU limit
	LogLevel      string          `json:"logLevel,omitempty"`
	AccessLog     string          `json:"accessLog,omitempty"`
	DrainDuration metav1.Duration `json:"drainDuration,omitempty"`
	DrainLimit    metav1.Duration `json:"drainLimit,omitempty"`

	RewriteAppHTTPProbers           bool   `json:"rewriteAppHTTPProbers,omitempty"`
	MergeMetrics                    bool   `json:"mergeMetrics,omitempty"`
	HoldApplicationUntilProxyStarts bool   `json:"holdApplicationUntilProxyStarts,omitempty"`
	IstioLabels                     bool   `json:"istioLabels,omitempty"` // Istio's labels and annotations ask for a sidecar, too
	StatusPort                      int32  `json:"statusPort,omitempty"`
	Audience                        string `json:"audience,omitempty"`       // of the token
	RootsConfigMap                  string `json:"rootsConfigMap,omitempty"` // in each namespace

	IncludeOutboundIPRanges string `json:"includeOutboundIPRanges,omitempty"`
	ExcludeOutboundIPRanges string `json:"excludeOutboundIPRanges,omitempty"`
	IncludeOutboundPorts    string `json:"includeOutboundPorts,omitempty"`
	ExcludeOutboundPorts    string `json:"excludeOutboundPorts,omitempty"`
	IncludeInboundPorts     string `json:"includeInboundPorts,omitempty"`
	ExcludeInboundPorts     string `json:"excludeInboundPorts,omitempty"`
	// DNSCapture has the sidecar answer what the pod asks DNS.
	DNSCapture bool `json:"dnsCapture,omitempty"`
	// Repair has pods whose redirect does not hold evicted, so that they start again.
	Repair      bool     `json:"repair,omitempty"`
	NeverInject []string `json:"neverInject,omitempty"` // namespaces, beside the cluster's and the mesh's own

	// What the values do not hold but their reader knows.
	Revision      string `json:"-"` // of this control plane; "": default
	RootNamespace string `json:"-"` // of the control plane; "": seine-system
	// Native is whether the cluster has native sidecars (Kubernetes 1.29).
	Native bool `json:"-"`
}

// Tristate is auto, always or never.
type Tristate string

// The values of a Tristate; the empty one is Auto.
const (
	Auto   Tristate = "auto"
	Always Tristate = "always"
	Never  Tristate = "never"
)

// Defaults are the values that hold where nothing is said; image is the
// sidecar's.
func Defaults(image string) Values {
	return Values{
		Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Control: "seined.seine-system.svc:15012", TrustDomain: "cluster.local", NativeSidecar: Auto,
		Resources:     requirements("10m", "32Mi", "256Mi"),
		InitResources: requirements("10m", "16Mi", "64Mi"),
		LogLevel:      "INFO",
		DrainDuration: metav1.Duration{Duration: 5 * time.Second}, DrainLimit: metav1.Duration{Duration: 20 * time.Second},
		RewriteAppHTTPProbers: true, MergeMetrics: true, HoldApplicationUntilProxyStarts: true, IstioLabels: true,
		StatusPort: 15020, Audience: "seine-ca", RootsConfigMap: "seine-ca-root",
		IncludeOutboundIPRanges: "*", IncludeInboundPorts: "*",
		Revision: "default", RootNamespace: "seine-system", Native: true,
	}
}

// Parse reads values over v; a field that nobody knows is an error, so that a
// misspelt one is not ignored. With an error v is unchanged.
func (v *Values) Parse(data []byte) error {
	next := *v
	next.Resources, next.InitResources = *v.Resources.DeepCopy(), *v.InitResources.DeepCopy()
	if err := yaml.UnmarshalStrict(data, &next); err != nil {
		return fmt.Errorf("inject: values: %w", err)
	}
	if err := next.check(); err != nil {
		return fmt.Errorf("inject: values: %w", err)
	}
	*v = next
	return nil
}

func (v *Values) check() error {
	switch v.NativeSidecar {
	case "", Auto, Always, Never:
	default:
		return fmt.Errorf("nativeSidecar %q is none of auto, always and never", v.NativeSidecar)
	}
	if v.Image == "" {
		return errors.New("image is missing: name the sidecar's")
	}
	if !strings.Contains(v.Control, ":") {
		return fmt.Errorf("control %q is not HOST:PORT", v.Control)
	}
	if v.StatusPort < 1 || v.StatusPort > 65535 {
		return fmt.Errorf("statusPort %d is not a port", v.StatusPort)
	}
	if v.Concurrency < 0 || v.Concurrency > 1024 {
		return fmt.Errorf("concurrency %d is not between 0 and 1024", v.Concurrency)
	}
	if v.DrainDuration.Duration < 0 || v.DrainLimit.Duration < 0 {
		return errors.New("drainDuration and drainLimit must not be negative")
	}
	return nil
}
