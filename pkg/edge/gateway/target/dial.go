package target

import (
	"context"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/streaming"
)

// Address is where on a device connections go: into a pod's network, to a host on the device's
// network, or to the device's own loopback if neither is set.
type Address struct {
	Pod  *corev1.Pod
	Host string
}

// Dialer returns the streaming.DialFunc to an address. Each connection is a stream of its own, and
// stays open until it is closed.
func Dialer(session gateway.Session, address Address) streaming.DialFunc {
	podUID := ""
	if address.Pod != nil {
		podUID = uidOnDevice(session, address.Pod)
	}
	return func(ctx context.Context, port uint16) (streaming.Conn, error) {
		s, err := open(ctx, session, &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Dial{Dial: &edgeapi.Dial{
			PodUid: podUID, Host: address.Host, Port: uint32(port),
		}}})
		if err != nil {
			return nil, dialError(err, address.Pod)
		}
		// A connection has no second output; one that comes anyhow must not hold up the first.
		s.Reader(edgeapi.Channel_STDERR).Close()
		return s.Conn(), nil
	}
}

// NetConn makes a connection a net.Conn, for an HTTP transport. Deadlines are not supported: setting
// one does nothing. What reads from it has to close it when its request ends, as an HTTP transport does.
func NetConn(conn streaming.Conn, session gateway.Session) net.Conn {
	return &netConn{Conn: conn, device: session.Device().String()}
}

type netConn struct {
	streaming.Conn
	device string
}

// deviceAddr is the address of a device: it has none in the network of this process.
type deviceAddr string

func (deviceAddr) Network() string  { return "edge" }
func (a deviceAddr) String() string { return string(a) }

func (c *netConn) LocalAddr() net.Addr              { return deviceAddr("aranya") }
func (c *netConn) RemoteAddr() net.Addr             { return deviceAddr(c.device) }
func (c *netConn) SetDeadline(time.Time) error      { return nil }
func (c *netConn) SetReadDeadline(time.Time) error  { return nil }
func (c *netConn) SetWriteDeadline(time.Time) error { return nil }
