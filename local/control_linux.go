package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// order is what the outer process tells the hub; one field at a time.
type order struct {
	Start *job `json:",omitempty"`
	Stop  bool `json:",omitempty"` // drain and end
	Kill  bool `json:",omitempty"` // end now
}

// notice is what the hub tells the outer process.
type notice struct {
	Refused string `json:",omitempty"` // the kernel does not allow isolation
	Begun   bool   `json:",omitempty"` // isolation works; the mesh starts
	Failed  string `json:",omitempty"` // the mesh ended by this error
	Done    bool   `json:",omitempty"` // the mesh ended as asked
}

// channel carries orders and notices, as JSON values one after the other. Its
// end is how the hub learns that the outer process is gone.
type channel struct {
	conn net.Conn
	dec  *json.Decoder
	mu   sync.Mutex
}

func newChannel(f *os.File) (*channel, error) {
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	f.Close()
	return &channel{conn: conn, dec: json.NewDecoder(conn)}, nil
}

// socketpair makes the two ends.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control channel: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

func (c *channel) send(v any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := json.NewEncoder(c.conn).Encode(v); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	return nil
}

func (c *channel) receive(v any) error { return c.dec.Decode(v) }

func (c *channel) close() { c.conn.Close() }

// errKilled is a mesh that was told to end at once.
var errKilled = errors.New("stopped at once: programs were killed before they had finished")
