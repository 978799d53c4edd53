// Package ca is the mesh's certificate authority: it attests who asks, signs short
// X.509-SVIDs, and hands out the trust bundle.
//
// What enters: a root (made here, or brought in Istio's cacerts layout), a join
// token with a CSR. What leaves: a chain for exactly the identity that was attested.
// It never takes a name out of a CSR, never logs a token, key or CSR, and never
// keeps a key readable by others.
package ca
