// Package api holds the wire types: Seine's own (seine/v1), and minimal copies
// of the messages of Envoy's discovery service (xds/v3) and Istio's certificate
// service (ca/v1), so that the proxy links neither project's packages.
package api

//go:generate ./generate.sh
