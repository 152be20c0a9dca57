package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

const (
	request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	// closedBy is when a connection must be closed. No test waits that long unless it fails.
	closedBy = 20 * time.Second
)

// runFront runs a front with nobody to take its WebSockets and device links.
func runFront(t *testing.T, firstWord time.Duration) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(l, nil, firstWord, klog.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = f.run() })
	t.Cleanup(func() {
		f.close()
		running.Wait()
	})
	return f
}

func (f *front) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", f.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(closedBy)); err != nil {
		t.Fatal(err)
	}
	return c
}

// A stranger by HTTP does not hold on to a connection.
func TestSlowStrangers(t *testing.T) {
	for name, stranger := range map[string]func(net.Conn) error{
		"says nothing":              func(c net.Conn) error { return ask(c, "") },
		"sends half of the headers": func(c net.Conn) error { return ask(c, request[:20]) },
		"announces a body that does not come": func(c net.Conn) error {
			return ask(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
		},
		"says nothing after an answer": func(c net.Conn) error { return ask(c, request) },
		"reads no answers": func(c net.Conn) error {
			for {
				if _, err := io.WriteString(c, request); err != nil {
					return err
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := runFront(t, 50*time.Millisecond)
			if err := stranger(f.dial(t)); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection was not closed")
			}
		})
	}
}

// ask says something and reads until the connection is closed.
func ask(c net.Conn, say string) error {
	if _, err := io.WriteString(c, say); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c)
	return err
}

func TestTooManyStrangers(t *testing.T) {
	f := runFront(t, firstWord)
	f.webCount.Store(maxWeb)
	if err := ask(f.dial(t), request); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection beyond the limit was not closed")
	}
	f.webCount.Store(0) // or -1 in a moment
	c := f.dial(t)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("within the limit: %v %v", resp, err)
	}
}
