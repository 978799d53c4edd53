package config

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
)

// originateProto is how TLS is begun with a server outside the mesh; nil for the
// other modes, and where it cannot be done as it is written: SIMPLE and MUTUAL
// connections are refused then.
func originateProto(t *networking.ClientTLSSettings) *seinev1.OriginateTls {
	mutual := t.Mode == networking.ClientTLSSettings_MUTUAL
	if !mutual && t.Mode != networking.ClientTLSSettings_SIMPLE {
		return nil
	}
	out := &seinev1.OriginateTls{CaCertificates: t.CaCertificates, CaCrl: t.CaCrl, InsecureSkipVerify: t.GetInsecureSkipVerify().GetValue()}
	if mutual {
		out.ClientCertificate, out.PrivateKey = t.ClientCertificate, t.PrivateKey
	}
	if t.CredentialName == "" {
		return out
	}
	// As Istio: the Secret's, instead of files.
	dir := mesh.CredentialsDir + "/" + t.CredentialName + "/"
	out.Credential, out.CaCertificates = t.CredentialName, dir+"ca.crt"
	if mutual {
		out.ClientCertificate, out.PrivateKey = dir+"tls.crt", dir+"tls.key"
	}
	return out
}

// credential checks a credentialName: it becomes a folder's name.
func (c *policyConverter) credential(t *networking.ClientTLSSettings, path string) {
	if t.CaCrl != "" && t.GetInsecureSkipVerify().GetValue() {
		c.d.fail(codeInvalid, path+".caCrl", nil, "a list of revoked certificates says nothing of a server that is not verified: leave out insecureSkipVerify or caCrl")
	}
	name := t.CredentialName
	if name == "" {
		return
	}
	if !validHost(name, false) || strings.ToLower(name) != name || strings.ContainsAny(name, "_") || strings.HasSuffix(name, ".") {
		c.d.fail(codeInvalid, path+".credentialName", nil, "%q is not a Secret's name: write one of the callers' own namespace", clip(name))
		return
	}
	if t.CaCertificates+t.ClientCertificate+t.PrivateKey+t.CaCrl != "" {
		c.d.fail(codeInvalid, path, nil, "credentialName and files exclude each other: keep one of them")
	}
}
