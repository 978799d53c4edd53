package mtls

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
)

// workloadOID names the extension in which the mesh's authority says which workload
// it gave a certificate to: a SPIFFE ID is a service account's, which its pods share.
// It lies under 2.25, where anybody may have an arc without asking (ITU-T X.667 §8);
// the arc is "SEIN" in ASCII, below 2³¹ as Go's parser wants it.
var workloadOID = asn1.ObjectIdentifier{2, 25, 0x5345494e, 1}

var errWorkload = errors.New("the certificate's workload extension cannot be read")

// WorkloadExtension is the extension for a workload, "NAMESPACE/INSTANCE". It is not
// critical: who does not know it is not concerned.
func WorkloadExtension(workload string) pkix.Extension {
	value, err := asn1.MarshalWithParams(workload, "utf8")
	if err != nil {
		panic(err) // only strings that are not UTF-8: names are
	}
	return pkix.Extension{Id: workloadOID, Value: value}
}

// Workload returns to which workload the authority gave a leaf, "NAMESPACE/INSTANCE";
// "" if it does not say: another authority's, or one from before this extension.
func Workload(leaf *x509.Certificate) (string, error) {
	for i := range leaf.Extensions {
		if e := &leaf.Extensions[i]; e.Id.Equal(workloadOID) {
			var workload string
			rest, err := asn1.UnmarshalWithParams(e.Value, &workload, "utf8")
			if err != nil || len(rest) > 0 || workload == "" {
				return "", errWorkload
			}
			return workload, nil
		}
	}
	return "", nil
}
