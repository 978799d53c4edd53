package image

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// rootsFile is where crypto/x509 looks for a machine's roots first.
const rootsFile = "/etc/ssl/certs/ca-certificates.crt"

// Roots returns Mozilla's certificate authorities as PEM: those of the pinned
// module, so that an image does not depend on who built it. A root that Mozilla
// trusts under a condition (certificates before some day) is left out, for a
// file cannot say the condition.
func Roots() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("roots: %w", err)
		}
	}
	return out.Bytes(), nil
}
