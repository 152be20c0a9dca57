package websocket

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// closeTime limits sending the close message.
const closeTime = time.Second

// conn is a net.Conn over a WebSocket. A read that has failed, by its deadline as well, is final: so it is
// with the library. TLS is the same.
type conn struct {
	*websocket.Conn
	below *below

	reading sync.Mutex
	message io.Reader // what is left of the message that is read
	failed  error     // of an earlier read

	writing sync.Mutex
}

// The socket below tells of how far what was written has come, see link.Conn.
var _ interface{ NetConn() net.Conn } = &conn{}

func newConn(ws *websocket.Conn, below *below) net.Conn {
	below.made = true
	return &conn{Conn: ws, below: below}
}

// below is a connection that a WebSocket is made of. Once it is made no write deadline comes from above: the library sets
// one before each frame, and would undo what conn's owner has set while a message is being written.
type below struct {
	net.Conn
	made bool
}

// SetWriteDeadline implements net.Conn.
func (b *below) SetWriteDeadline(t time.Time) error {
	if b.made {
		return nil
	}
	return b.Conn.SetWriteDeadline(t)
}

// NetConn returns what is below, as that of crypto/tls does.
func (b *below) NetConn() net.Conn { return b.Conn }

// Read implements net.Conn. A clean close is io.EOF.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.failed != nil {
		return 0, c.failed
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if c.message == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				return 0, c.fail(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, c.fail(errors.New("the other end sent a text message, which the link does not know"))
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if err != nil {
			return n, c.fail(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (c *conn) fail(err error) error {
	if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
		err = io.EOF
	}
	c.failed = err
	return err
}

// Write implements net.Conn. Each call is one message.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn. Unlike the library's it may be called during a write, which it is
// for as well.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.below.Conn.SetWriteDeadline(t) }

// Close implements net.Conn. The other end is told, if it takes that.
func (c *conn) Close() error {
	deadline := time.Now().Add(closeTime)
	_ = c.SetWriteDeadline(deadline)
	_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), deadline)
	return c.Conn.Close()
}
