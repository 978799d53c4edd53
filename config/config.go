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
	"time"

	"github.com/seinemesh/seine/mesh"
)

// File is one input, named as findings shall name it.
type File struct {
	Name string
	Data []byte
}

// Resource is one resource of a cluster: JSON, decoded by the same code as
// files. Its findings name the resource alone, without file and line.
type Resource struct {
	Data    []byte
	Created time.Time
	// Decoded is where Build keeps what it decoded, for the next one; nil: nowhere.
	Decoded *Decoded
}

// DefaultVIPs is where services without a clusterIP get their addresses.
var DefaultVIPs = netip.MustParsePrefix("10.96.0.0/12")

// Allocated is where ServiceEntries of a cluster that have no address get theirs
// (mesh.Service.Allocated): Istio's ranges, of which nobody on the Internet has one.
func Allocated() [2]netip.Prefix {
	return [2]netip.Prefix{netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")}
}

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
	// Resources stand behind the files, in the order of their precedence. One that
	// a file has, too, is as if the file had been applied already.
	Resources []Resource
	// Workloads are what is known to run beside what the files describe; Backends
	// what a cluster lists for its Services (mesh.Parts).
	Workloads []*mesh.Workload
	Backends  map[string][]mesh.Backend
	// Cluster: a cluster gives the addresses: a service without one gets none,
	// and VIPs is not used; a ServiceEntry gets some of Allocated.
	Cluster bool
}

// Event is one change of what a source of resources reads.
type Event struct {
	// Result is what should run from now on: the new one or, if Err is set, the
	// last good one (nil if there never was one).
	Result *Result
	// Findings are those of what was read, also where Err is set.
	Findings Findings
	// Err says why what was read is not taken: a *RefusedError, or what went
	// wrong with reading.
	Err error
	// EndpointsOnly: no resource changed, only what runs.
	EndpointsOnly bool
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
