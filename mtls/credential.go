package mtls

import (
	"os"
	"path/filepath"
)

// Names of a Secret's keys: those of kubernetes.io/tls, and those that Istio takes
// in a generic one.
var (
	credentialCA          = [...]string{"ca.crt", "cacert"}
	credentialCertificate = [...]string{"tls.crt", "cert"}
	credentialKey         = [...]string{"tls.key", "key"}
)

// credentialCRL is the key of lists of revoked certificates, which may be absent.
const credentialCRL = "ca.crl"

// files is o with the names of the files that its Credential has now. It looks at
// the disk: not for an event loop.
func (o Origin) files() Origin {
	if o.Credential == "" {
		return o
	}
	of := func(names [2]string) string {
		for _, n := range names {
			if fileExists(filepath.Join(o.Credential, n)) {
				return filepath.Join(o.Credential, n)
			}
		}
		return filepath.Join(o.Credential, names[0]) // which is named as missing
	}
	o.CA = of(credentialCA)
	if crl := filepath.Join(o.Credential, credentialCRL); fileExists(crl) {
		o.CRL = crl
	}
	if o.Mutual {
		o.Certificate, o.Key = of(credentialCertificate), of(credentialKey)
	}
	return o
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
