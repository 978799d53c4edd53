//go:build linux

// Package wire holds seine-proxy's listeners to test suites of others: h2spec,
// and the interoperability cases of gRPC. It is a module of its own because
// they bring dependencies that the product does not have.
package wire

import (
	"runtime"
	"testing"
)

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	m.Run()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
