package scenario

import (
	"context"
	"io"
	"net"
)

// Echo sends back what it gets on a port of loopback, until ctx ends.
func Echo(ctx context.Context, port string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_, _ = io.Copy(conn, conn) // the other end closes when it likes
		}()
	}
}
