package uplink

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// alertTime is how long to wait for why a server has closed the connection.
const alertTime = time.Second

// errCertificate is for a device whose certificate the server does not accept. By its code the device does not try again
// soon.
var errCertificate = plain(status.Error(codes.PermissionDenied, "the server does not accept the certificate of this device: it is of a device CA "+
	"that the server does not trust, or not any more (or the clock of the server is slow). To enrol the device anew, "+howToEnrol))

// tlsConn notices that the server has refused the certificate. With TLS 1.3 that comes after the handshake, when both
// sides of gRPC are at work: the one that writes may fail first, for a connection that is closed.
type tlsConn struct {
	*tls.Conn
	heard   atomic.Bool // the server has said something else: the certificate is accepted
	refused atomic.Bool
	end     sync.Once
	ended   chan struct{} // closed when nothing more can be read
}

func newTLSConn(c *tls.Conn) *tlsConn { return &tlsConn{Conn: c, ended: make(chan struct{})} }

// Read implements net.Conn.
func (c *tlsConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		c.heard.Store(true)
	} else {
		if isBadCertificate(err) {
			c.refused.Store(true)
		}
		c.end.Do(func() { close(c.ended) })
	}
	return n, err
}

// Write implements net.Conn.
func (c *tlsConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !c.heard.Load() {
		select { // or gRPC would close what the reason is still to be read from
		case <-c.ended:
		case <-time.After(alertTime):
		}
	}
	return n, err
}

// explain returns the error of a call over the connection, or why there can be none.
func (c *tlsConn) explain(err error) error {
	if err != nil && c.refused.Load() {
		return errCertificate
	}
	return err
}

// isBadCertificate says whether an error is the alert that crypto/tls sends if VerifyConnection fails. It has no type.
func isBadCertificate(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error" && remote.Err.Error() == "tls: bad certificate"
}
