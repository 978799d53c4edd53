package netns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Listening reports the TCP ports that something in the namespace listens on,
// on any address. It looks; it connects to nothing.
func (n *NS) Listening() (ports map[uint16]bool, err error) {
	err = n.Do(func() error {
		ports, err = Listening()
		return err
	})
	return ports, err
}

// Listening is the same for the calling thread's namespace.
func Listening() (map[uint16]bool, error) {
	ports := map[uint16]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("netns: read listening sockets: %w", err)
		}
		listening(f, ports)
		f.Close()
	}
	return ports, nil
}

// listening reads the format of /proc/net/tcp (proc(5)): the second field is
// ADDRESS:PORT in hex, the fourth the state, 0A for LISTEN.
func listening(r io.Reader, ports map[uint16]bool) {
	const listen = "0A"
	for s := bufio.NewScanner(r); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 4 || f[3] != listen {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(port, 16, 16); err == nil {
			ports[uint16(n)] = true
		}
	}
}
