package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/seinemesh/seine/config"
)

// alone checks a resource by Build, as if it were the only one.
func alone(o *config.Object) (config.Findings, error) {
	data, err := o.JSON()
	if err != nil {
		return nil, err
	}
	return config.Build(nil, config.Options{Cluster: true, Resources: []config.Resource{{Data: data}}}).Findings, nil
}

func review(operation, object, old string) string {
	if old == "" {
		old = "null"
	}
	return fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":%q,"namespace":"shop","object":%s,"oldObject":%s}}`, operation, object, old)
}

func route(meta, http string) string {
	return `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"namespace":"shop",` + meta + `},"spec":{"hosts":["a"],"http":[` + http + `]},"status":{"conditions":[]}}`
}

func TestReview(t *testing.T) {
	const good = `{"route":[{"destination":{"host":"a"}}]}`
	const bad = `{"route":[{"destination":{"host":"a"}}],"timeout":"-1s"}`
	for name, tc := range map[string]struct {
		operation, object, old string
		allowed                bool
		says                   string // in the refusal
		warns                  string // in a warning
	}{
		"good, but the host is unknown":  {"CREATE", route(`"name":"r"`, good), "", true, "", "there is no service with the host a.shop"},
		"bad":                            {"CREATE", route(`"name":"r"`, bad), "", false, "error: VirtualService shop/r: spec.http[0].timeout: a duration must not be negative (it is -1s) [SEINE0015, IST0106]", ""},
		"bad twice":                      {"CREATE", route(`"name":"r"`, bad+","+strings.Replace(bad, "timeout", "timout", 1)), "", false, "\nerror: VirtualService shop/r: spec.http[1].timout: there is no field", ""},
		"made good":                      {"UPDATE", route(`"name":"r"`, good), route(`"name":"r"`, bad), true, "", ""},
		"made bad":                       {"UPDATE", route(`"name":"r"`, bad), route(`"name":"r"`, good), false, "must not be negative", ""},
		"was bad, and is labelled":       {"UPDATE", route(`"name":"r","labels":{"x":"y"},"finalizers":[]`, bad), route(`"name":"r"`, bad), true, "", "refused already"},
		"a bad route of the Gateway API": {"CREATE", `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"},"spec":{"rules":7}}`, "", true, "", "it has no effect: error"},
		"bad, and deleted":               {"DELETE", "null", route(`"name":"r"`, bad), true, "", ""},
		"a generated name":               {"CREATE", route(`"generateName":"r-"`, good), "", true, "", ""},
		"no object":                      {"CREATE", `"text"`, "", false, "cannot be read", ""},
		"not implemented":                {"CREATE", `{"apiVersion":"networking.istio.io/v1","kind":"EnvoyFilter","metadata":{"name":"s"},"spec":{}}`, "", true, "", "not implemented"},
		"a security kind that is not":    {"CREATE", `{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication","metadata":{"name":"s"},"spec":{}}`, "", false, "refused rather than run open", ""},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := Review([]byte(review(tc.operation, tc.object, tc.old)), alone)
			if err != nil {
				t.Fatal(err)
			}
			var r admissionv1.AdmissionReview
			if err := json.Unmarshal(out, &r); err != nil || r.Response == nil || r.Response.UID != "u" || r.Request != nil || r.APIVersion != "admission.k8s.io/v1" {
				t.Fatalf("%v %s", err, out)
			}
			if r.Response.Allowed != tc.allowed || tc.says != "" && !strings.Contains(r.Response.Result.Message, tc.says) {
				t.Errorf("%s", out)
			}
			if tc.warns != "" && !strings.Contains(strings.Join(r.Response.Warnings, "\n"), tc.warns) {
				t.Errorf("warnings %q", r.Response.Warnings)
			}
			for _, w := range r.Response.Warnings {
				if len(w) > maxWarning {
					t.Errorf("a warning of %d bytes", len(w))
				}
			}
		})
	}
}

func TestNoReview(t *testing.T) {
	for _, body := range []string{"", "[]", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u"}}`} {
		if _, err := Review([]byte(body), alone); !errors.Is(err, ErrReview) {
			t.Errorf("%s: %v", body, err)
		}
	}
	out, err := Review([]byte(review("CREATE", route(`"name":"r"`, "{}"), "")), func(*config.Object) (config.Findings, error) { return nil, errors.New("out of order") })
	if err != nil || !strings.Contains(string(out), `"code":500`) || !strings.Contains(string(out), "out of order") {
		t.Errorf("%v %s", err, out)
	}
}

func FuzzReview(f *testing.F) {
	f.Add([]byte(review("CREATE", route(`"name":"r"`, `{"route":[]}`), "")))
	f.Add([]byte(review("UPDATE", route(`"name":"r"`, `{}`), route(`"name":"r"`, `{}`))))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := Review(body, alone)
		if err != nil {
			return
		}
		var r admissionv1.AdmissionReview
		if err := json.Unmarshal(out, &r); err != nil || r.Response == nil {
			t.Fatalf("%v %s", err, out)
		}
	})
}
