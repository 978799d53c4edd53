// Package config turns users' resources into a mesh.Snapshot.
//
// In: the bytes of YAML and JSON files (Kubernetes' Service; Istio's
// VirtualService, DestinationRule, ServiceEntry, WorkloadEntry,
// PeerAuthentication, and the MeshPolicy and Policy of 2019; our own local
// Workload). Out: a Snapshot with every default applied and every short name
// resolved, and Findings: what is wrong, where, and what to do about it.
//
// It is pure: no file, no clock, no goroutine; the same bytes give the same
// result. It never drops a field silently: one that the schema does not know
// is an error, one that this version does not implement is a warning and is
// recorded as unsupported in the model.
package config

import (
	"net/netip"

	"github.com/seinemesh/seine/mesh"
)

// File is one input, named as findings shall name it.
type File struct {
	Name string
	Data []byte
}

// DefaultVIPs is where services without a clusterIP get their addresses.
var DefaultVIPs = netip.MustParsePrefix("10.96.0.0/12")

// DefaultInstances is where the instances of local Workloads get theirs when
// they only exist on paper (Options.LocalInstances).
var DefaultInstances = netip.MustParsePrefix("10.244.0.0/16")

// Options are what Build needs beside the files. The zero value is usable.
type Options struct {
	Generation uint64
	// Settings are the start for MeshConfig; nil: mesh.DefaultSettings.
	Settings *mesh.Settings
	// MeshConfig is Istio's MeshConfig file, laid over Settings; nil: none.
	MeshConfig *File
	// Namespace is that of resources that name none; "": "default".
	Namespace string
	// VIPs is the prefix of services without clusterIP; zero: DefaultVIPs. It
	// is added to Settings.Prefixes.
	VIPs netip.Prefix
	// LocalInstances makes a mesh.Workload of each replica of a local Workload
	// that no WorkloadEntry describes, for analysis and explanation offline.
	LocalInstances bool
}

// Result is what Build makes of the files.
type Result struct {
	// Snapshot is never nil; resources that were refused are not in it.
	Snapshot *mesh.Snapshot
	Findings Findings
	// Local are the local Workloads, by namespace and name.
	Local []*Local
	// Publish are the local ports of all Workloads and Gateways.
	Publish []Publish
	// Routes are how the Gateway API routes fare that have Services as parents,
	// refused ones too.
	Routes []RouteStatus
}

// Local is a local.seine.dev/v1 Workload: what to run on this machine.
type Local struct {
	mesh.Ref
	Labels         map[string]string
	Annotations    map[string]string
	Command        []string // argv; the first is looked up in PATH or relative to WorkingDir
	Replicas       int      // 1 if not said
	ServiceAccount string   // "default" if not said
	Ports          []LocalPort
	Env            map[string]string
	WorkingDir     string // relative to the folder of Ref.File; "": that folder
}

// LocalPort is a port that a local workload listens on.
type LocalPort struct {
	Name   string // may be empty
	Number uint32
}

// Publish opens a port of the host's loopback into the mesh.
type Publish struct {
	mesh.Ref
	Port uint32 // of 127.0.0.1 on the host
	Host string // FQDN of the service
	To   uint32 // port of that service
}

// Instance is the name of replica n (from 1) of l.
func (l *Local) Instance(n int) string { return instanceName(l.Name, n) }
