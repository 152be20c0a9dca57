package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// maxFiles is the most descriptors that travel with one message.
const maxFiles = 3

// send writes one message with descriptors; they stay the caller's.
func send(conn *net.UnixConn, request *Request, fds ...int) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("the command line has %d bytes, at most %d are possible", len(data), maxMessage)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(data, rights, nil)
	return err
}

// await waits for the next message and tells its size, zero if there is none any more. Who waits for as long as a
// container runs holds no memory for it.
func await(conn *net.UnixConn) (size int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		size, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		for errors.Is(err, unix.EINTR) {
			size, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return size, err
}

// receive reads one message with its descriptors, which are the caller's to close in any case.
func receive(conn *net.UnixConn, into any) (fds []int, err error) {
	size, err := await(conn)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, io.EOF
	}
	buffer := make([]byte, min(size, maxMessage))
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, nrights, flags, _, err := conn.ReadMsgUnix(buffer, rights)
	if err != nil {
		return nil, err
	}
	if nrights > 0 {
		messages, err := unix.ParseSocketControlMessage(rights[:nrights])
		if err != nil {
			return nil, err
		}
		for i := range messages {
			got, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return fds, err
			}
			for _, fd := range got {
				unix.CloseOnExec(fd)
			}
			fds = append(fds, got...)
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return fds, fmt.Errorf("a message has more than %d bytes or %d descriptors", maxMessage, maxFiles)
	}
	if err := json.Unmarshal(buffer[:n], into); err != nil {
		return fds, fmt.Errorf("a message is damaged: %w", err)
	}
	return fds, nil
}
