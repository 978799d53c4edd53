package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// maxLine bounds a line of output; a longer one is cut into several.
const maxLine = 16 << 10

// Lines calls f for each line of r, without its end, until r ends. The slice
// is f's only until it returns.
func Lines(r io.Reader, f func([]byte)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			f(bytes.TrimRight(line, "\r\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// File is a log file of bounded size: when it is full it becomes PATH.1, and
// what was PATH.1 is gone. It may be used from several goroutines.
type File struct {
	mu   sync.Mutex
	path string
	max  int64
	size int64
	f    *os.File
}

// OpenFile opens a log file, emptied, 0600, that holds at most max bytes.
func OpenFile(path string, max int64) (*File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &File{path: path, max: max, f: f}, nil
}

// WriteLine appends a line.
func (l *File) WriteLine(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(line))+1 > l.max && l.size > 0 {
		if err := l.turn(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(append(line[:len(line):len(line)], '\n'))
	l.size += int64(n)
	return err
}

func (l *File) turn() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return fmt.Errorf("turn log over: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("turn log over: %w", err)
	}
	l.f.Close()
	l.f, l.size = f, 0
	return nil
}

// Close closes the file.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
