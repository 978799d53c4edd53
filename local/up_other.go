//go:build !linux

package local

import (
	"context"
	"errors"
)

// Up runs a mesh on this machine; it needs Linux.
func Up(context.Context, <-chan struct{}, Options) error {
	return errors.New("seine up needs Linux: it is made of network namespaces and nftables; run it in a virtual machine")
}

// Stages are the ways in which Up calls this program again: none here.
func Stages() map[string]func() error { return nil }
