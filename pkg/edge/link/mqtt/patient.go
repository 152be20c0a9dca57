package mqtt

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// patient is the TCP connection to a broker. Whoever writes has writeTime, and anew whenever the broker has taken some
// of it meanwhile: a message of 64 KiB takes longer on a slow link.
type patient struct{ net.Conn }

func dialPatient(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := link.NetDialer().DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return patient{c}, nil
}

// Write implements net.Conn.
func (p patient) Write(b []byte) (int, error) {
	written := 0
	for {
		n, err := p.Conn.Write(b[written:])
		written += n
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		if err := p.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return written, err
		}
	}
}
