package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	//lint:ignore SA1019 client-go's spdy.Negotiate returns this package's connection
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Forward connects to a port on the loopback address inside a pod, as kubectl
// port-forward does. It needs create on pods/portforward. The connection knows
// no deadlines: bound what is done with it by closing it.
func Forward(ctx context.Context, cfg *rest.Config, namespace, pod string, port int) (net.Conn, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: forward to %s/%s: %w", namespace, pod, err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: forward to %s/%s: %w", namespace, pod, err)
	}
	url := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("cluster: forward to %s/%s: %w", namespace, pod, err)
	}
	stream, _, err := spdy.Negotiate(upgrader, &http.Client{Transport: transport}, req, portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("cluster: forward to %s/%s: %w; may you create pods/portforward there?", namespace, pod, err)
	}
	c, err := open(stream, port)
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("cluster: forward to %s/%s port %d: %w", namespace, pod, port, err)
	}
	return c, nil
}

// open begins one forwarded connection: a stream of errors, which the node's
// agent closes unwritten when all went well, and one of data.
func open(stream httpstream.Connection, port int) (*conn, error) {
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	failure, err := stream.CreateStream(h)
	if err != nil {
		return nil, err
	}
	if err := failure.Close(); err != nil { // we write nothing to it
		return nil, err
	}
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := stream.CreateStream(h)
	if err != nil {
		return nil, err
	}
	c := &conn{Stream: data, connection: stream, failed: make(chan struct{})}
	go func() {
		defer close(c.failed)
		message, err := io.ReadAll(io.LimitReader(failure, 1<<10))
		if err == nil && len(message) > 0 {
			c.err = fmt.Errorf("cluster: the pod's side: %s", strings.TrimSpace(string(message)))
			_ = data.Reset() // ends a Read that waits
		}
	}()
	return c, nil
}

// conn is one forwarded connection as a net.Conn.
type conn struct {
	httpstream.Stream
	connection httpstream.Connection
	failed     chan struct{} // closed when no further error can come
	err        error         // written before failed is closed
	close      sync.Once
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if n == 0 && err != nil {
		select {
		case <-c.failed:
			if c.err != nil {
				err = c.err
			}
		default:
		}
	}
	return n, err
}

func (c *conn) Close() error {
	var err error
	c.close.Do(func() {
		_ = c.Stream.Reset()
		err = c.connection.Close()
		<-c.failed
	})
	return err
}

func (c *conn) LocalAddr() net.Addr              { return address{} }
func (c *conn) RemoteAddr() net.Addr             { return address{} }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// address is that of either end of a forwarded connection: it has none.
type address struct{}

func (address) Network() string { return "portforward" }
func (address) String() string  { return "portforward" }
