// Package version says which build of Seine this is.
package version

import "runtime/debug"

// Version is the release, set by the linker (-X); "dev" otherwise.
var Version = "dev"

// String returns the release with the commit it was built from, where known.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return Version + " (" + s.Value[:12] + ")"
		}
	}
	return Version
}
