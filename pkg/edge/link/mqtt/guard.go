package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
)

// guard stands between a broker and the MQTT library, which believes every length that a broker names. It
// cuts messages that are larger than any frame, so that they are acknowledged and ignored rather than held,
// and ends the connection on other packets that no honest broker sends.
type guard struct {
	net.Conn
	r     *bufio.Reader
	limit int // the largest PUBLISH, in bytes after its fixed header

	header []byte // still to be read by the library
	room   [5]byte
	body   int // bytes of the packet still to be read
	cut    int // bytes of the packet to be thrown away then
}

const (
	packetPublish = 3
	packetSuback  = 9
	// maxTopic is the most that a PUBLISH has beside its payload, in bytes.
	maxTopic = 2 + 65535 + 2
	// maxOther limits packets of other types, in bytes. From a broker they have 4 bytes at most.
	maxOther = 16
	// subackSize is the size for one topic, which is what this package subscribes to at a time.
	subackSize = 3
	readBuffer = 8 << 10
)

func newGuard(c net.Conn, payloadLimit int) *guard {
	return &guard{Conn: c, r: bufio.NewReaderSize(c, readBuffer), limit: payloadLimit + maxTopic + 1}
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(g.header) == 0 && g.body == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	if len(g.header) > 0 {
		n := copy(p, g.header)
		g.header = g.header[n:]
		return n, nil
	}
	n, err := g.r.Read(p[:min(len(p), g.body)])
	g.body -= n
	return n, err
}

// next reads the fixed header of the packet that follows.
func (g *guard) next() error {
	for g.cut > 0 {
		n, err := g.r.Discard(min(g.cut, readBuffer))
		g.cut -= n
		if err != nil {
			return err
		}
	}
	kind, err := g.r.ReadByte()
	if err != nil {
		return err
	}
	size, err := readLength(g.r)
	if err != nil {
		return err
	}
	switch {
	case kind>>4 == packetPublish:
		g.cut = max(0, size-g.limit)
	case kind>>4 == packetSuback && size != subackSize, size > maxOther:
		return fmt.Errorf("the broker sent a packet of type %d with %d bytes, which is against MQTT", kind>>4, size)
	}
	g.body = size - g.cut
	g.header = appendLength(append(g.room[:0], kind), g.body)
	return nil
}

// readLength reads a remaining length as MQTT encodes it.
func readLength(r io.ByteReader) (int, error) {
	size := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		size |= int(b&0x7f) << shift
		if b < 0x80 {
			return size, nil
		}
	}
	return 0, errors.New("the broker sent a packet whose length is against MQTT")
}

func appendLength(b []byte, size int) []byte {
	for size >= 0x80 {
		b = append(b, byte(size)|0x80)
		size >>= 7
	}
	return append(b, byte(size))
}
