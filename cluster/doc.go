// Package cluster is the way into a Kubernetes cluster: for seined, the one that
// it runs in; for the CLI, kubeconfigs, contexts and namespaces, and a
// port-forward to a control plane's API.
//
// In: flags and the environment. Out: client configurations, and an HTTP client
// that speaks to seined in its pod. It changes nothing in a cluster.
package cluster
