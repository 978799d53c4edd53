//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// play is what this binary does as a workload. The outsider has no sidecar: it
// goes straight at a workload's address in plaintext, again and again, and says
// each time what it met. The disk writes for each request.
func play(role string) int {
	switch role {
	case "outsider":
	case "disk":
		fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", http.HandlerFunc(write)))
		return 1
	case "partner":
		return partner()
	case "customer":
		return customer()
	default:
		fmt.Fprintln(os.Stderr, "no such role:", role)
		return 1
	}
	for range time.Tick(100 * time.Millisecond) {
		fmt.Println(attempt(os.Getenv("TARGET")))
	}
	return 0
}

// attempt sends one plaintext request.
func attempt(target string) string {
	conn, err := net.DialTimeout("tcp4", target, 2*time.Second)
	if err != nil {
		return fmt.Sprint("no connection: ", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err.Error()
	}
	if _, err := fmt.Fprint(conn, "GET /balance HTTP/1.1\r\nHost: ledger\r\nConnection: close\r\n\r\n"); err != nil {
		return fmt.Sprint("refused: ", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Sprint("refused: ", err)
	}
	defer res.Body.Close()
	return fmt.Sprint("answered: ", res.StatusCode)
}

// write answers once a little of DIR's disk is written.
func write(w http.ResponseWriter, _ *http.Request) {
	err := func() error {
		f, err := os.CreateTemp(os.Getenv("DIR"), "write")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		_, err = f.Write(make([]byte, 4096))
		return errors.Join(err, f.Sync(), f.Close())
	}()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, `{"version": "v1"}`)
}
