package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/edge/link"
)

// frameVersion is the first byte of every frame.
const frameVersion = 0xA1

// frameType is what a frame is for.
type frameType byte

const (
	// frameOpen asks for a connection; from the device, with its half of the ID.
	frameOpen frameType = iota + 1
	// frameAccept answers it, with both halves.
	frameAccept
	// frameData holds bytes of the pipe. This and the next two are numbered, from 1.
	frameData
	// frameCredit only tells what every frame tells: how much may be sent.
	frameCredit
	// frameClose says that no data follows and that none is read any more.
	frameClose
	// frameReset ends a connection at once; its payload is the reason.
	frameReset
	// frameGone is a will: the device of the connection, or the server with this half of the ID and
	// all of its connections, is gone.
	frameGone
	// frameHello says that a server listens from now on. Its creditFrames is the time in milliseconds over
	// which the devices should spread what they send upon it.
	frameHello
	// frameWait answers open, too: the device will get another answer later, when its turn has come.
	frameWait
	// frameNote is for a device that is parked, or from it; the device's half of the ID is that of its first
	// connection. Without data, from the server, it says that the server does not know of it.
	frameNote
)

const (
	// headerRoom is the most that a header takes.
	headerRoom = 2 + 8 + 8 + 3*binary.MaxVarintLen64
	// maxReason limits the text of a reset, in bytes. Older versions take no more than shortReason.
	maxReason   = 1024
	shortReason = 128
)

// connID names a connection. The high half of server is the same for all servers of one name.
type connID struct {
	device, server uint64
}

// frame is the payload of one PUBLISH.
type frame struct {
	kind frameType
	id   connID
	// seq numbers data, credit and close frames of one direction. It is 0 in others.
	seq uint64
	// creditBytes and creditFrames are how many bytes and frames of data, counted from the beginning of
	// the connection, the other end may have sent.
	creditBytes, creditFrames uint64
	// maxPayload, of open and accept, is the largest payload of a PUBLISH that the other end may send.
	maxPayload uint64
	// data, of data, reset and note. In open it is the formerID, if that is not zero.
	data []byte
}

// formerID is the ID by which the sender of an open is known. The device's half is that of its first connection over
// the connection to the broker that it has; the server's is that of the last connection if the device is parked, and 0
// if it is not.
func (f *frame) formerID() connID {
	if len(f.data) == 0 {
		return connID{device: f.id.device}
	}
	return connID{device: binary.BigEndian.Uint64(f.data), server: binary.BigEndian.Uint64(f.data[8:])}
}

// bytes is the ID as an open says it.
func (id connID) bytes() []byte {
	if id.device == 0 {
		return nil
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, id.device), id.server)
}

var (
	errMalformed = errors.New("malformed frame")
	errVersion   = errors.New("frame of another version")
)

// appendTo encodes the frame.
func (f *frame) appendTo(b []byte) []byte {
	b = append(b, frameVersion, byte(f.kind))
	b = binary.BigEndian.AppendUint64(b, f.id.device)
	b = binary.BigEndian.AppendUint64(b, f.id.server)
	b = binary.AppendUvarint(b, f.seq)
	b = binary.AppendUvarint(b, f.creditBytes)
	b = binary.AppendUvarint(b, f.creditFrames)
	if f.kind == frameOpen || f.kind == frameAccept {
		b = binary.AppendUvarint(b, f.maxPayload)
	}
	return append(b, f.data...)
}

// decodeFrame reads a frame; data is a part of b.
func decodeFrame(b []byte) (frame, error) {
	var f frame
	if len(b) < 18 {
		return f, errMalformed
	}
	if b[0] != frameVersion {
		return f, errVersion
	}
	f.kind = frameType(b[1])
	f.id.device = binary.BigEndian.Uint64(b[2:])
	f.id.server = binary.BigEndian.Uint64(b[10:])
	b = b[18:]
	fields := []*uint64{&f.seq, &f.creditBytes, &f.creditFrames}
	if f.kind == frameOpen || f.kind == frameAccept {
		fields = append(fields, &f.maxPayload)
	}
	for _, field := range fields {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return f, errMalformed
		}
		*field, b = v, b[n:]
	}
	f.data = b
	return f, f.check()
}

// check refuses what no end would send.
func (f *frame) check() error {
	ok := false
	switch f.kind {
	case frameOpen:
		ok = f.id.device != 0 && f.id.server == 0 && f.seq == 0 && (len(f.data) == 0 || len(f.data) == 16) && f.maxPayload >= minPayload
	case frameWait:
		ok = f.id.device != 0 && f.id.server == 0 && f.seq == 0 && len(f.data) == 0
	case frameAccept:
		ok = f.id.device != 0 && f.id.server != 0 && f.seq == 0 && len(f.data) == 0 && f.maxPayload >= minPayload
	case frameData:
		ok = f.seq != 0 && len(f.data) != 0
	case frameCredit, frameClose:
		ok = f.seq != 0 && len(f.data) == 0
	case frameReset:
		ok = len(f.data) <= maxReason
	case frameGone, frameHello:
		ok = len(f.data) == 0
	case frameNote:
		ok = f.id.device != 0 && f.id.server != 0 && f.seq == 0 && len(f.data) <= link.MaxNote
	}
	if !ok {
		return errMalformed
	}
	return nil
}

// reason is the text of a reset, fit for an error message.
func (f *frame) reason() string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, string(f.data))
}

// resetFrame ends a connection, with a reason that every version takes.
func resetFrame(id connID, reason string) *frame { return resetWith(id, reason, shortReason) }

// refusal says that a device gets no connection. What is too long for older versions comes first, and is ignored by
// them: what counts is the first answer that a device understands.
func refusal(device uint64, reason string) []*frame {
	id, short := connID{device: device}, resetFrame(connID{device: device}, reason)
	if len(reason) <= shortReason {
		return []*frame{short}
	}
	return []*frame{resetWith(id, reason, maxReason), short}
}

func resetWith(id connID, reason string, limit int) *frame {
	return &frame{kind: frameReset, id: id, data: []byte(clip.String(reason, limit))}
}

func (k frameType) String() string {
	names := [...]string{"", "OPEN", "ACCEPT", "DATA", "CREDIT", "CLOSE", "RESET", "GONE", "HELLO", "WAIT", "NOTE"}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("type %d", byte(k))
	}
	return names[k]
}
