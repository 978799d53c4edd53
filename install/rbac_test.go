package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// What seined may do, and nothing else: one line for each group, resource and
// name. Whoever adds a line says here what it is for.
var allowed = []string{
	// Discovery: what runs where, in which zone.
	"cluster /services get,list,watch",
	"cluster /pods get,list,watch",
	"cluster /namespaces get,list,watch",
	"cluster /nodes get,list,watch",
	"cluster discovery.k8s.io/endpointslices get,list,watch",
	// Configuration; "*" is of these seven groups, which hold nothing secret.
	"cluster networking.istio.io/* get,list,watch",
	"cluster security.istio.io/* get,list,watch",
	"cluster telemetry.istio.io/* get,list,watch",
	"cluster extensions.istio.io/* get,list,watch",
	"cluster authentication.istio.io/* get,list,watch",
	"cluster gateway.networking.k8s.io/* get,list,watch",
	"cluster traffic.seine.dev/* get,list,watch",
	"cluster apiextensions.k8s.io/customresourcedefinitions get,list,watch",
	// Status, never the resources themselves.
	"cluster networking.istio.io/destinationrules/status patch,update",
	"cluster networking.istio.io/gateways/status patch,update",
	"cluster networking.istio.io/proxyconfigs/status patch,update",
	"cluster networking.istio.io/serviceentries/status patch,update",
	"cluster networking.istio.io/sidecars/status patch,update",
	"cluster networking.istio.io/virtualservices/status patch,update",
	"cluster networking.istio.io/workloadentries/status patch,update",
	"cluster networking.istio.io/workloadgroups/status patch,update",
	"cluster security.istio.io/authorizationpolicies/status patch,update",
	"cluster security.istio.io/peerauthentications/status patch,update",
	"cluster security.istio.io/requestauthentications/status patch,update",
	"cluster telemetry.istio.io/telemetries/status patch,update",
	"cluster authentication.istio.io/meshpolicies/status patch,update",
	"cluster authentication.istio.io/policies/status patch,update",
	"cluster traffic.seine.dev/ratelimits/status patch,update",
	"cluster gateway.networking.k8s.io/backendtlspolicies/status patch,update",
	"cluster gateway.networking.k8s.io/gatewayclasses/status patch,update",
	"cluster gateway.networking.k8s.io/gateways/status patch,update",
	"cluster gateway.networking.k8s.io/grpcroutes/status patch,update",
	"cluster gateway.networking.k8s.io/httproutes/status patch,update",
	"cluster gateway.networking.k8s.io/listenersets/status patch,update",
	"cluster gateway.networking.k8s.io/tcproutes/status patch,update",
	"cluster gateway.networking.k8s.io/tlsroutes/status patch,update",
	// Identity: whose token is this; the trust bundle for everybody.
	"cluster authentication.k8s.io/tokenreviews create",
	"cluster /configmaps create",
	"cluster /configmaps[seine-ca-root] get,list,watch,update,patch,delete",
	"cluster certificates.k8s.io/clustertrustbundles create,list,watch",
	"cluster certificates.k8s.io/clustertrustbundles[seine.dev:ca:root] get,update,patch,delete",
	"cluster certificates.k8s.io/signers[seine.dev/ca] attest",
	// The caBundle of its own webhooks.
	"cluster admissionregistration.k8s.io/mutatingwebhookconfigurations[seine-injector] get,list,watch,update,patch",
	"cluster admissionregistration.k8s.io/validatingwebhookconfigurations[seine-validator] get,list,watch,update,patch",
	// Events for people.
	"cluster /events create,patch",
	"cluster events.k8s.io/events create,patch",
	// In its own namespace: settings, the root, who leads.
	"seine-system /configmaps[seine] get,list,watch",
	"seine-system /configmaps[seine-kept] get,update,delete", // the last good version of what is refused, over a restart
	"seine-system /secrets[seine-ca] get,list,watch",
	"seine-system /secrets[cacerts] get,list,watch",
	"seine-system /secrets[seine-ca] update,patch",
	"seine-system /secrets create",
	"seine-system coordination.k8s.io/leases create,get,list,watch,update,patch,delete",
}

// What options add.
var (
	allowedRepair = []string{"cluster /pods/eviction create"}
	allowedCNI    = []string{"cluster /pods get"} // of the account seine-cni
)

func TestPermissions(t *testing.T) {
	for _, c := range []struct {
		setting string
		extra   []string
	}{
		{"ha=true", nil},
		{"injection.repair=true", allowedRepair},
		{"cni.enabled=true", allowedCNI},
	} {
		got := permissions(t, render(t, c.setting))
		want := slices.Sorted(slices.Values(append(slices.Clone(allowed), c.extra...)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: what is allowed is not what is listed and argued here (-listed +rendered):\n%s", c.setting, diff)
		}
	}
}

// permissions lists each rule of the rendered roles as allowed does.
func permissions(t *testing.T, objects []*unstructured.Unstructured) []string {
	t.Helper()
	var lines []string
	for _, u := range objects {
		if u.GetKind() != "ClusterRole" && u.GetKind() != "Role" {
			continue
		}
		var role rbacv1.Role // a ClusterRole's rules have the same shape
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &role); err != nil {
			t.Fatal(err)
		}
		where := u.GetNamespace()
		if where == "" {
			where = "cluster"
		}
		for _, r := range role.Rules {
			if len(r.NonResourceURLs) > 0 || len(r.APIGroups) == 0 || slices.Contains(r.APIGroups, "*") || slices.Contains(r.Verbs, "*") {
				t.Errorf("%s %s: a rule that names no resources or all of something: %v", u.GetKind(), u.GetName(), r)
			}
			for _, g := range r.APIGroups {
				for _, resource := range r.Resources {
					names := r.ResourceNames
					if len(names) == 0 {
						names = []string{""}
					}
					for _, n := range names {
						if n != "" {
							n = "[" + n + "]"
						}
						lines = append(lines, fmt.Sprintf("%s %s/%s%s %s", where, g, resource, n, strings.Join(r.Verbs, ",")))
					}
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}
