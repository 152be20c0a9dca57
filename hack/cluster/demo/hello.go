package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Hello is the program of the tour's pods: it greets over HTTP until ctx ends, and redirects from /moved,
// as web interfaces do. Several may share a port, because devices without network namespaces share this machine's.
func Hello(ctx context.Context, port int, log io.Writer) error {
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var optErr error
		err := conn.Control(func(fd uintptr) {
			optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(err, optErr)
	}}
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	greeting := fmt.Sprintf("%s from %s on %s", os.Getenv("GREETING"), os.Getenv("POD_NAME"), os.Getenv("NODE_NAME"))
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(log, "%s %s\n", r.Method, r.URL.Path)
			if r.URL.Path == "/moved" {
				http.Redirect(w, r, "http://"+r.Host+"/", http.StatusFound)
				return
			}
			_, _ = fmt.Fprintln(w, greeting)
		}),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_, _ = fmt.Fprintf(log, "%s: listening on port %d\n", greeting, port)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
