// Package kube holds the end-to-end tests on a real cluster: `make e2e-cluster`,
// or `go test -tags kube ./test/kube/...` with KUBECONFIG set.
package kube
