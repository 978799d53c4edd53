//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// play is what this binary does as a workload. The one role there is, the
// outsider, has no sidecar: it goes straight at a workload's address in
// plaintext, again and again, and says each time what it met.
func play(role string) int {
	if role != "outsider" {
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
