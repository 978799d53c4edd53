// Package conformance runs the Gateway API's own conformance suite, unmodified,
// against a mesh in a real cluster: the profiles MESH-HTTP and MESH-GRPC with
// every extended feature that is about meshes.
//
// It is a module of its own, so that the suite's dependencies stay out of the
// product's, and needs the build tag conformance and a cluster (KUBECONFIG) with
// Seine in it; run.sh prepares one.
package conformance
