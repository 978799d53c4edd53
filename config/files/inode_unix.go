//go:build unix

package files

import (
	"io/fs"
	"syscall"
)

// inode tells a file from another one that was renamed into its place.
func inode(i fs.FileInfo) uint64 {
	if st, ok := i.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino)
	}
	return 0
}
