package tty

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(slave), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the slave has the flags %x, %v", flags, err)
	}
	if err := Resize(master, 123, 45); err != nil {
		t.Fatal(err)
	}
	size, err := unix.IoctlGetWinsize(slave, unix.TIOCGWINSZ)
	if err != nil || size.Col != 123 || size.Row != 45 {
		t.Errorf("got %v, %v", size, err)
	}
	if _, err := unix.Write(slave, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	if n, err := master.Read(buffer); err != nil || string(buffer[:n]) != "hello\r\n" {
		t.Errorf("got %q, %v", buffer[:n], err)
	}
	if err := master.SetReadDeadline(time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := master.Read(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if err := errors.Join(unix.Close(slave), master.Close()); err != nil {
		t.Error(err)
	}
	if err := Resize(master, 1, 1); err == nil {
		t.Error("a closed terminal was resized")
	}
}
