// Package kube is the certificate authority's half in Kubernetes: it attests pods by
// TokenReview, keeps the root in a Secret or takes the one that was brought, and
// keeps the trust bundle where pods mount it.
//
// What enters: a clientset, tokens, Secrets. What leaves: ca.Claims, ca.Material, and
// ConfigMaps that hold nothing secret. It never overwrites a root that it cannot
// read, never logs a token or a key, and believes nothing of a token that the API
// server has not said.
package kube

const (
	// Audience is that of the tokens that a pod presents: a token for the
	// Kubernetes API is no token for the authority, nor the reverse.
	Audience = "seine-ca"
	// SecretGenerated holds the root that was made here.
	SecretGenerated = "seine-ca"
	// SecretBrought holds a root that was brought, and wins: in Istio's layout, or
	// as cert-manager writes it.
	SecretBrought = "cacerts"
	// BundleName is the ConfigMap of the trust bundle in each namespace with injection.
	BundleName = "seine-ca-root"
	// BundleKey is its key.
	BundleKey = "root-cert.pem"

	managedBy   = "app.kubernetes.io/managed-by"
	managedByUs = "seined"
)
