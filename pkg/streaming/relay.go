package streaming

import (
	"errors"
	"io"
	"sync"
	"time"

	"k8s.io/streaming/pkg/httpstream"

	"arhat.dev/aranya/pkg/streaming/spdy"
)

// defaultHalfCloseTimeout is how long a connection lasts once either side has sent all that it has to say. A client
// that hangs up cannot be told from one that goes on reading: kubectl half-closes its stream either way. Container
// runtimes leave a second; links to devices are slower.
const defaultHalfCloseTimeout = 10 * time.Second

// Forwarder is a reader that writes what comes by itself, and needs no goroutine that waits for it. Forward
// returns at once; done is called once, with the error that io.Copy would return.
type Forwarder interface {
	Forward(w io.Writer, done func(error))
}

// Forward has what comes from r written to w, and calls done when r has ended or something failed.
func Forward(w io.Writer, r io.Reader, done func(error)) {
	if r, ok := r.(Forwarder); ok {
		r.Forward(w, done)
		return
	}
	go func() {
		_, err := io.Copy(w, r)
		done(err)
	}()
}

// relay copies both ways until conn has nothing more to say or the client resets its stream, and calls over then,
// with the error of reading from conn. The client may close its sending side first, and then has halfClose left to
// read. A relay at rest has no goroutine if both ends are Forwarders.
func relay(client io.ReadWriteCloser, conn Conn, halfClose time.Duration, over func(error)) {
	r := &relaying{client: client, conn: conn, halfClose: halfClose, over: over, open: 2}
	Forward(conn, client, r.sent)
	Forward(client, conn, r.received)
}

type relaying struct {
	client    io.ReadWriteCloser
	conn      Conn
	halfClose time.Duration
	over      func(error)

	mu    sync.Mutex
	open  int   // directions that are not over
	reset bool  // by either end: what follows from that is no error
	err   error // of reading from conn
	late  *time.Timer
}

// sent is called when the client has sent all that it has to say.
func (r *relaying) sent(err error) {
	switch {
	case err == nil:
		_ = r.conn.CloseWrite()
	case errors.Is(err, spdy.ErrReset):
		r.cut()
	default: // the other direction sees the end as well
	}
	r.end()
}

// received is called when the other side has.
func (r *relaying) received(err error) {
	r.mu.Lock()
	// Before the client can react. Writing may be the first to notice that it has reset its stream.
	if !r.reset && !errors.Is(err, io.ErrClosedPipe) {
		r.err = err
	}
	r.mu.Unlock()
	r.conn.Close()
	r.client.Close()
	r.end()
}

// cut ends both directions.
func (r *relaying) cut() {
	r.mu.Lock()
	r.reset = true
	r.mu.Unlock()
	_ = r.conn.Close()
	if stream, ok := r.client.(httpstream.Stream); ok {
		_ = stream.Reset()
	}
}

// end is called once for each direction. The other usually follows.
func (r *relaying) end() {
	r.mu.Lock()
	r.open--
	over := r.open == 0
	if over {
		r.late.Stop()
	} else {
		r.late = time.AfterFunc(r.halfClose, r.cut)
	}
	r.mu.Unlock()
	if over {
		r.over(r.err)
	}
}
