// Package tty opens pseudo-terminals for processes that the agent or a shim starts. It is linked into
// shims and must stay small.
package tty

import (
	"errors"
	"fmt"
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Open returns the two ends of a new pseudo-terminal. The master has deadlines, and can be closed
// under a reader. The slave is a bare descriptor in blocking mode, as programs expect their terminal;
// it is the caller's to close.
func Open() (master *os.File, slave int, err error) {
	m, s, err := pty.Open()
	if err != nil {
		return nil, -1, fmt.Errorf("cannot open a terminal: %w", err)
	}
	defer m.Close()
	defer s.Close()
	masterFD, err := duplicate(m, true)
	if err != nil {
		return nil, -1, err
	}
	master = os.NewFile(uintptr(masterFD), "/dev/ptmx")
	slave, err = duplicate(s, false)
	if err != nil {
		return nil, -1, errors.Join(err, master.Close())
	}
	return master, slave, nil
}

// duplicate gives a descriptor whose mode Go's runtime does not change any more.
func duplicate(f *os.File, nonblock bool) (int, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot duplicate a terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, nonblock); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// Resize sets the size of a terminal in character cells. It may be used while the terminal is closed.
func Resize(master *os.File, width, height uint16) error {
	conn, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = conn.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
	return errors.Join(err, ioctlErr)
}
