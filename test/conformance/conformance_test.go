//go:build conformance

package conformance

import (
	"os"
	"path/filepath"
	"testing"

	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// injected is the label by which the suite's namespaces get sidecars.
const injected = "seine.dev/inject"

// TestMesh runs the suite. The report is written to CONFORMANCE_REPORT.
func TestMesh(t *testing.T) {
	opts := conformance.DefaultOptions(t)
	opts.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	opts.SupportedFeatures = append(features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures).UnsortedList(),
		// What the tests of the mesh want besides.
		features.SupportHTTPRoute, features.SupportGRPCRoute,
		features.SupportHTTPRouteParentRefPort, features.SupportHTTPRouteResponseHeaderModification,
		features.SupportHTTPRoute303RedirectStatusCode, features.SupportHTTPRoute307RedirectStatusCode, features.SupportHTTPRoute308RedirectStatusCode,
	)
	if opts.NamespaceLabels == nil {
		opts.NamespaceLabels = map[string]string{}
	}
	opts.NamespaceLabels[injected] = "enabled"
	opts.Implementation = confv1.Implementation{
		Organization: "seinemesh", Project: "seine", URL: "https://github.com/seinemesh/seine",
		Version: version(), Contact: []string{"https://github.com/seinemesh/seine/issues"},
	}
	if at := os.Getenv("CONFORMANCE_REPORT"); at != "" {
		absolute, err := filepath.Abs(at)
		if err != nil {
			t.Fatal(err)
		}
		opts.ReportOutputPath = absolute
	}
	conformance.RunConformanceWithOptions(t, opts)
}

func version() string {
	if v := os.Getenv("SEINE_VERSION"); v != "" {
		return v
	}
	return "dev"
}
