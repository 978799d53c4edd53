package config

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
)

func TestOrigination(t *testing.T) {
	for tls, want := range map[string]string{
		`{mode: SIMPLE}`: `{}`,
		`{mode: SIMPLE, caCertificates: /ca.pem, insecureSkipVerify: true}`: `{"caCertificates":"/ca.pem","insecureSkipVerify":true}`,
		`{mode: MUTUAL, clientCertificate: /c, privateKey: /k}`:             `{"clientCertificate":"/c","privateKey":"/k"}`,
		`{mode: SIMPLE, credentialName: a.b-c}`:                             `{"caCertificates":"/etc/seine/credentials/a.b-c/ca.crt","credential":"a.b-c"}`,
		`{mode: MUTUAL, credentialName: x}`:                                 `{"caCertificates":"/etc/seine/credentials/x/ca.crt","clientCertificate":"/etc/seine/credentials/x/tls.crt","privateKey":"/etc/seine/credentials/x/tls.key","credential":"x"}`,
		`{mode: ISTIO_MUTUAL}`:                                              "",
		`{mode: SIMPLE, caCrl: /crl}`:                                       `{"caCrl":"/crl"}`,
		`{mode: SIMPLE, caCrl: /crl, insecureSkipVerify: true}`:             "refused",
		`{mode: SIMPLE, caCrl: /crl, credentialName: x}`:                    "refused",
		`{mode: ISTIO_MUTUAL, caCrl: /crl}`:                                 "refused",
		`{mode: MUTUAL, credentialName: ../../etc}`:                         "refused",
		`{mode: MUTUAL, credentialName: a/b}`:                               "refused",
		`{mode: MUTUAL, credentialName: ..}`:                                "refused",
		`{mode: MUTUAL, credentialName: X}`:                                 "refused",
		`{mode: MUTUAL, credentialName: x, privateKey: /k}`:                 "refused",
		`{mode: ISTIO_MUTUAL, credentialName: x}`:                           "refused",
		`{mode: MUTUAL}`: "refused",
	} {
		r := Build([]File{{"x.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\nspec: {host: api.example.com, trafficPolicy: {tls: " + tls + "}}\n")}}, Options{})
		got := "refused"
		if len(r.Snapshot.DestinationRules) == 1 {
			got = ""
			if o := r.Snapshot.DestinationRules[0].Policy.Originate; o != nil {
				b, err := protojson.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				got = strings.ReplaceAll(string(b), " ", "")
			}
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", tls, got, want)
		}
		for _, f := range r.Findings {
			if f.Code == codeUnsupported {
				t.Errorf("%s: %s", tls, f.Message)
			}
		}
	}
}
