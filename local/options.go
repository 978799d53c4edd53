// Package local runs a mesh on this machine: `seine up`.
//
// In: folders and files of resources, among them local Workloads. Out: for each
// instance of each Workload a process in a network namespace of its own with a
// seine-proxy before it, one seined for all of them, a resolver, ports published
// on the host's loopback, and a live table. When it ends, for whatever reason,
// nothing of that is left.
//
// Two processes share the work. The outer one stays in the host's namespaces
// and does what only it can: listen on the host's loopback, connect in the
// host's network, ask the host's resolver, receive signals. The hub, which it
// starts in new user (unless root), process, mount and network namespaces, does
// everything else. The hub is process 1 of its namespace and dies with the outer
// one: the kernel then ends every process in it and, with the last of them,
// every namespace, link and rule.
//
// Where the kernel refuses namespaces, the outer process runs the same mesh
// without them (see fallback): applications reach their sidecars by HTTP_PROXY.
package local

import (
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/seinemesh/seine/config"
)

// Options are what `seine up` was asked for.
type Options struct {
	Paths      []string // of resources
	MeshConfig string   // Istio's MeshConfig file; "": none
	RunDir     string   // "": rundir.Default
	StateDir   string   // "": rundir.DefaultState
	Seined     string   // programs; "": beside this one, or in PATH
	Proxy      string
	// Credentials is the folder with the Secrets that sidecars begin TLS with; "":
	// seine-proxy's default.
	Credentials string
	CertTTL     time.Duration // of workloads' certificates; 0: seined's default
	// RequireIsolation makes a kernel that refuses namespaces an error.
	RequireIsolation bool
	// Private: nobody but this user reads Err (it is a terminal), so that the
	// dashboard's link may be written there.
	Private bool
	// Web is the loopback address where browsers and Prometheus on this machine
	// find the control plane; "": DefaultWeb, or any free port if that is taken;
	// "none": nowhere.
	Web string
	// NoIsolation runs the fallback even where the kernel has namespaces.
	NoIsolation bool
	// For stops the mesh by itself, so long after everything was ready;
	// negative: never. Then an instance that is not ready is an error.
	For time.Duration
	// ReadyTimeout bounds the wait for everything to be ready, if For is set.
	ReadyTimeout time.Duration
	// Logs shows workloads' output between the tables; it is always kept in
	// files of the run folder.
	Logs bool
	// Out gets everything that is shown. Err gets findings about the resources.
	Out *os.File
	Err io.Writer
}

// Addresses. Services have theirs out of config.DefaultVIPs.
var (
	instances = config.DefaultInstances
	// loopbacks are the instances' addresses without namespaces; a second mesh
	// takes the next /16, and so on for loopbackTries.
	loopbacks = netip.MustParsePrefix("127.77.0.0/16")
)

// Ports, as Istio numbers them.
const (
	portOutbound = 15001
	portInbound  = 15006
	portAdmin    = 15000
	portStatus   = 15020
	portXDS      = 15012
	portAPI      = 15014
)

// grace is how long a program may take from SIGTERM to its end.
const grace = 5 * time.Second

// job is all that the process that runs the mesh has to know. It travels from
// the outer process to the hub as JSON.
type job struct {
	Paths        []string
	MeshConfig   string
	RunDir       string
	StateDir     string
	Seined       string
	Proxy        string
	Credentials  string // absolute
	CertTTL      time.Duration
	For          time.Duration
	ReadyTimeout time.Duration
	Logs         bool
	Publish      []config.Publish // in the order of the listeners
	UID, GID     int              // who runs workloads, as the host counts
	User, Home   string           // of UID, where that is not who started this
	Own          bool             // workloads get user namespaces, to be UID again
}
