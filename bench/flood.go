package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An attacker who opens connections to the server's sidecar and never gets
// further: a third says nothing, a third sends half a ClientHello, a third a
// whole one, which costs the server a key exchange, and does not answer. The
// client's sidecar is beside them and has its requests answered all the while.
const floodProcesses = 6 // each from an address of its own: of ports and of descriptors there are only so many

// flooded is what one attacker reports on standard output.
type flooded struct {
	Begun int `json:"begun"`
	Open  int `json:"open"` // at the end, as far as the attacker can see
}

// flood opens connections from one address at even times over length, holds all
// that the server does not end, and looks at the end how many those are.
func flood(addr, from string, connections int, length time.Duration) (*flooded, error) {
	to, err := sockaddr(addr)
	if err != nil {
		return nil, err
	}
	source, err := sockaddr(net.JoinHostPort(from, "0"))
	if err != nil {
		return nil, err
	}
	hello, err := clientHello()
	if err != nil {
		return nil, err
	}
	says := [][]byte{nil, hello[:len(hello)/2], hello}
	type attack struct {
		fd   int
		says []byte // that it has yet to say
	}
	var (
		f   flooded
		all []attack
	)
	begun := time.Now()
	for f.Begun < connections {
		due := min(connections, int(int64(connections)*int64(time.Since(begun))/int64(length)))
		for ; f.Begun < due; f.Begun++ {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return nil, fmt.Errorf("connection %d: %w", f.Begun, err)
			}
			if err := unix.Bind(fd, source); err != nil {
				return nil, fmt.Errorf("from %s: %w", from, err)
			}
			if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
				return nil, fmt.Errorf("connect %s: %w", addr, err)
			}
			all = append(all, attack{fd, says[f.Begun%len(says)]})
		}
		time.Sleep(5 * time.Millisecond)
		for i := max(0, len(all)-connections/10); i < len(all); i++ { // those of the last tenth of the time
			if a := &all[i]; len(a.says) > 0 {
				if _, err := unix.Write(a.fd, a.says); err != unix.EAGAIN && err != unix.ENOTCONN {
					a.says = nil
				}
			}
		}
	}
	for _, a := range all {
		fds := []unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT | unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, 0); err == nil && n == 1 && fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) == 0 {
			f.Open++
		}
	}
	return &f, nil
}

// clientHello is what a Go client says first.
func clientHello() ([]byte, error) {
	here, there := net.Pipe()
	client := tls.Client(here, &tls.Config{ServerName: serverName, MinVersion: tls.VersionTLS13})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.Handshake() // it ends when the pipe does
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(there, head); err != nil {
		return nil, err
	}
	hello := append(head, make([]byte, int(head[3])<<8|int(head[4]))...)
	_, err := io.ReadFull(there, hello[5:])
	_ = there.Close()
	<-done
	return hello, err
}

// besieged is the open loop of 1,000 requests per second, while so many half-open
// connections are made to the server's sidecar; the memory is that at the end,
// with all that is left of them open.
func (m *meter) besieged(ctx context.Context, name string, connections int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if m.o.paced < 2*time.Second { // -quick
		connections /= 20
	}
	length := 4 * m.o.paced
	var attackers []*exec.Cmd
	defer func() {
		cancel()
		for _, a := range attackers {
			_ = a.Wait()
		}
	}()
	var reports []*json.Decoder
	for i := range floodProcesses {
		if connections == 0 {
			break
		}
		cmd := exec.CommandContext(ctx, m.o.tools.self, "flood", m.pair.server, fmt.Sprintf("127.0.0.%d", 10+i), strconv.Itoa(connections/floodProcesses), length.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stderr = os.Stderr // why it gave up, if it does
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		attackers, reports = append(attackers, cmd), append(reports, json.NewDecoder(out))
	}
	var (
		r    paced
		then = readSteal()
	)
	if err := report(m.generator(ctx, "paced", strconv.Itoa(pacedRate), strconv.Itoa(pacedConnections), "500ms", length.String()), &r); err != nil {
		return err
	}
	var all flooded
	for _, d := range reports {
		var f flooded
		if err := d.Decode(&f); err != nil {
			return fmt.Errorf("an attacker: %w", err)
		}
		all.Begun, all.Open = all.Begun+f.Begun, all.Open+f.Open
	}
	s, err := m.sample(name, then) // the attackers hold theirs still
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d requests failed", r.Failed, r.Requests)
	}
	rps := float64(r.Requests) / r.Seconds
	s.RPS, s.P50, s.P99, s.P999, s.Requests = &rps, &r.P50, &r.P99, &r.P999, r.Requests
	if all.Begun < connections/floodProcesses*floodProcesses {
		return errors.New("fewer connections were begun than asked for")
	}
	if connections > 0 {
		open := float64(all.Open)
		s.Open = &open
	}
	return nil
}
