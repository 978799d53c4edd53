//go:build kube

package kube

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seinemesh/seine/test/kube/kubetest"
)

// secret is what an application sends and nobody between the nodes may read.
const secret = "marker-6f1d9c40a7e25b83"

// TestNothingCrossesInTheClear listens on the wire between two nodes. Without
// the mesh the secret is read there, which shows that the ear is good.
func TestNothingCrossesInTheClear(t *testing.T) {
	wire := os.Getenv("SEINE_WIRE")
	if wire == "" {
		t.Skip("SEINE_WIRE does not name an interface between two nodes")
	}
	c := kubetest.Connect(t)
	c.Install(t)
	for _, tc := range []struct {
		name   string
		labels map[string]string
		clear  bool
	}{
		{"without mesh", nil, true},
		{"in the mesh", map[string]string{"seine.dev/inject": "enabled"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := c.Namespace(t, "wire", tc.labels)
			n.Apply(t, onZone(server, "zone2")+"---"+onZone(client, "zone1"))
			n.WaitReady(t, "server", "client")
			pod := n.ReadyPod(t, "app=client").Name
			heard := listen(t, wire)
			for range 10 {
				if _, err := n.Call(t.Context(), pod, "-header", "x-secret="+secret, "http://server/"+secret); err != nil {
					t.Fatal(err)
				}
				// A port that is PERMISSIVE and whose server speaks first.
				if out, err := n.Call(t.Context(), pod, "-protocol", "server-first", "server:9001"); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			if err := everyProtocol(t.Context(), n, pod); err != nil {
				t.Error(err)
			}
			if heard.frames.Load() == 0 {
				t.Fatal("nothing crossed between the nodes: the test heard nothing")
			}
			if got := heard.secrets.Load() > 0; got != tc.clear {
				t.Errorf("the secret was heard in %d of %d frames", heard.secrets.Load(), heard.frames.Load())
			}
		})
	}
}

// onZone pins the first pod template of a manifest to a zone.
func onZone(manifest, zone string) string {
	return strings.Replace(manifest, "\n    spec:\n", "\n    spec:\n      nodeSelector: {topology.kubernetes.io/zone: "+zone+"}\n", 1)
}

type ear struct{ frames, secrets atomic.Int64 }

// listen counts the IP frames on an interface until the test ends, and those
// with the secret in them.
func listen(t *testing.T, name string) *ear {
	t.Helper()
	iface, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "packets")
	if err := errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
	); err != nil {
		t.Fatal(err)
	}
	var e ear
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		frame := make([]byte, 1<<17)
		for {
			n, err := file.Read(frame)
			if err != nil {
				return // closed
			}
			e.frames.Add(1)
			if bytes.Contains(frame[:n], []byte(secret)) {
				e.secrets.Add(1)
			}
		}
	}()
	t.Cleanup(func() { file.Close(); <-ended })
	return &e
}
