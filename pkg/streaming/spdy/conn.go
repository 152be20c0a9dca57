package spdy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Types of control frames (2.6 of the specification).
const (
	typeSynStream = 1
	typeSynReply  = 2
	typeRstStream = 3
	typeSettings  = 4
	typePing      = 6
	typeGoAway    = 7
	typeHeaders   = 8
)

const (
	version = 3
	// control marks control frames, fin the last frame of a direction of a stream.
	control, fin = 0x80, 0x01
	// frameHeader is the size of what each frame begins with.
	frameHeader = 8
	// maxControl bounds control frames: none has more than a block of headers and a few numbers.
	maxControl = maxHeaderBlock + 16
)

// defaultProbeInterval is how often the client is probed while nothing is read from it.
const defaultProbeInterval = 10 * time.Second

// Reasons to reset a stream (2.6.3).
const (
	protocolError = 1
	refused       = 3
	cancelled     = 5
)

// Handler says what becomes of a stream that the client opens. After an error it is refused. Otherwise
// the function that it returned, if any, is called in a goroutine of its own once the client was told. It
// must have done called when all that it began is over, which may be after it has returned: Serve waits for
// that. A handler must not block: nothing else is read meanwhile.
type Handler func(stream *Stream) (run func(done func()), err error)

// Config of a connection.
type Config struct {
	// IdleTimeout ends a connection on which no frame went either way for this long.
	IdleTimeout time.Duration
	// MaxStreams is how many streams may be open at a time. More are refused.
	MaxStreams int
}

// Conn is a connection.
type Conn struct {
	conn   net.Conn
	reader io.Reader
	config Config
	handle Handler
	idle   *time.Timer

	probeInterval time.Duration // shorter in tests

	// For the reading goroutine only.
	decompressor decompressor
	lastID       uint32

	writeMu sync.Mutex
	replied bool // a reply has begun the zlib stream of headers

	mu      sync.Mutex // guards what follows, and the states of streams
	streams map[uint32]*Stream

	closed    chan struct{}
	closeOnce sync.Once
	running   sync.WaitGroup
}

// NewConn returns the server's end of a connection, of which reader gives what has been read already as
// well. The caller must call Serve.
func NewConn(conn net.Conn, reader io.Reader, config Config, handle Handler) *Conn {
	return &Conn{
		conn: conn, reader: reader, config: config, handle: handle,
		streams: map[uint32]*Stream{}, closed: make(chan struct{}),
		probeInterval: defaultProbeInterval,
	}
}

// Serve reads until the client is gone, the connection was closed or idle, or ctx ends. Then it closes
// the connection, and returns when all that handlers started has. The error is a violation of the
// protocol.
func (c *Conn) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.Close)
	defer stop()
	c.idle = time.AfterFunc(c.config.IdleTimeout, c.Close)
	defer c.idle.Stop()
	// Elsewhere: the caller's stack is often large already, and would grow for this.
	read := make(chan error, 1)
	go func() { read <- c.read() }()
	err := <-read
	c.Close()
	c.mu.Lock()
	open := slices.Collect(maps.Values(c.streams))
	c.mu.Unlock()
	for _, s := range open {
		s.endInput()
	}
	c.running.Wait()
	var violation *violation
	if errors.As(err, &violation) {
		return err
	}
	return nil // it is over, one way or another
}

// Close cuts the connection.
func (c *Conn) Close() {
	c.closeOnce.Do(func() {
		close(c.closed)
		_ = c.conn.Close()
	})
}

// violation of the protocol: nothing that follows would be understood.
type violation struct{ what string }

func (v *violation) Error() string { return "SPDY: protocol violation: " + v.what }

func violates(format string, args ...any) error { return &violation{fmt.Sprintf(format, args...)} }

func (c *Conn) read() error {
	for {
		if err := c.readFrame(); err != nil {
			return err
		}
	}
}

func (c *Conn) readFrame() error {
	var header [frameHeader]byte
	if _, err := io.ReadFull(c.reader, header[:]); err != nil {
		return err
	}
	c.idle.Reset(c.config.IdleTimeout)
	first, second := binary.BigEndian.Uint32(header[:]), binary.BigEndian.Uint32(header[4:])
	flags, length := byte(second>>24), int(second&0xffffff)
	if header[0]&control == 0 {
		return c.readData(first, length, flags&fin != 0)
	}
	if v := first >> 16 & 0x7fff; v != version {
		return violates("version %d", v)
	}
	if length > maxControl {
		return violates("a control frame of %d bytes; the limit is %d", length, maxControl)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(c.reader, payload); err != nil {
		return err
	}
	return c.control(uint16(first), flags, payload)
}

func (c *Conn) readData(id uint32, length int, last bool) error {
	s := c.stream(id)
	for length > 0 {
		if s == nil { // of a stream that was reset
			_, err := io.CopyN(io.Discard, c.reader, int64(length))
			return err
		}
		data := make([]byte, min(length, maxData))
		if _, err := io.ReadFull(c.reader, data); err != nil {
			return err
		}
		length -= len(data)
		if !s.push(data) {
			s = nil
		}
	}
	if s != nil && last {
		s.endInput()
		c.forget(s)
	}
	return nil
}

func (c *Conn) control(kind uint16, flags byte, payload []byte) error {
	// size of what comes before a block of headers, or in all
	size := map[uint16]int{typeSynStream: 10, typeSynReply: 4, typeRstStream: 8, typePing: 4, typeGoAway: 4, typeHeaders: 4}[kind]
	if len(payload) < size {
		return violates("a frame of type %d is cut off", kind)
	}
	var id uint32
	if size > 0 {
		id = binary.BigEndian.Uint32(payload) & 0x7fffffff
	}
	switch kind {
	case typeSynStream:
		headers, err := c.decompressor.headers(payload[size:])
		if err != nil {
			return violates("%v", err)
		}
		return c.open(id, headers, flags&fin != 0)
	case typeSynReply, typeHeaders: // nobody asks for these, but what follows refers to them
		if _, err := c.decompressor.headers(payload[size:]); err != nil {
			return violates("%v", err)
		}
	case typeRstStream:
		if s := c.stream(id); s != nil {
			s.cut()
		}
	case typePing:
		if id%2 == 1 { // the client's own
			return c.writeControl(typePing, payload[:4])
		}
	case typeGoAway:
		return io.EOF // a client closes with it, and waits for this end to do the same
	}
	// SETTINGS and WINDOW_UPDATE as well: flow control is not used in Kubernetes.
	return nil
}

// open handles a stream that the client opens.
func (c *Conn) open(id uint32, headers http.Header, last bool) error {
	if id%2 == 0 || id <= c.lastID {
		return c.reset(id, protocolError)
	}
	c.lastID = id
	s := newStream(c, id, headers)
	c.mu.Lock()
	full := len(c.streams) >= c.config.MaxStreams
	if !full {
		c.streams[id] = s
	}
	c.mu.Unlock()
	if full {
		return c.reset(id, refused)
	}
	if last {
		s.endInput()
	}
	run, err := c.handle(s)
	if err != nil {
		s.cut()
		return c.reset(id, refused)
	}
	if err := c.reply(id); err != nil {
		return err
	}
	if run != nil {
		c.running.Add(1)
		go run(c.running.Done)
	}
	return nil
}

// reply accepts a stream. There is nothing to say in headers.
func (c *Conn) reply(id uint32) error {
	payload := binary.BigEndian.AppendUint32(nil, id)
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if !c.replied {
		c.replied = true
		payload = append(payload, zlibStart()...)
	}
	return c.writeLocked(controlFrame(typeSynReply, append(payload, noHeaders...)))
}

func (c *Conn) reset(id, status uint32) error {
	return c.writeControl(typeRstStream, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, id), status))
}

func (c *Conn) writeControl(kind uint16, payload []byte) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	return c.writeLocked(controlFrame(kind, payload))
}

// probe closes the connection if the client has left, which is not seen while nothing is read: what is written to one
// that has left fails, the second time at the latest. Clients ignore SETTINGS, of which there are none here. It is not a
// PING: the answer would wait behind the input, and what else the client reads behind the answer.
func (c *Conn) probe() {
	if !c.writeMu.TryLock() {
		return // what is being written does the same
	}
	defer c.writeMu.Unlock()
	// Not by writeLocked: the connection is idle all the same.
	if _, err := c.conn.Write(controlFrame(typeSettings, make([]byte, 4))); err != nil {
		c.Close()
	}
}

func controlFrame(kind uint16, payload []byte) []byte {
	frame := []byte{control, version, byte(kind >> 8), byte(kind)}
	return append(binary.BigEndian.AppendUint32(frame, uint32(len(payload))), payload...)
}

// writeLocked writes one frame, in one message of a WebSocket for example.
func (c *Conn) writeLocked(frame []byte) error {
	if _, err := c.conn.Write(frame); err != nil {
		return err
	}
	c.idle.Reset(c.config.IdleTimeout)
	return nil
}

func (c *Conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// forget removes a stream of which both directions are over.
func (c *Conn) forget(s *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over() {
		delete(c.streams, s.id)
	}
}
