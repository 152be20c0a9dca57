package ondemand

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

// source is what a Forwarder is to take from.
type source chan []byte

func (s source) next() ([]byte, error) {
	select {
	case data, ok := <-s:
		if !ok {
			return nil, io.EOF
		}
		return data, nil
	default:
		return nil, nil
	}
}

// narrow takes so many bytes of each piece.
type narrow struct {
	bytes.Buffer
	width int
}

func (n *narrow) Write(p []byte) (int, error) { return n.Buffer.Write(p[:min(len(p), n.width)]) }

type broken struct{}

var errBroken = errors.New("broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func end(t *testing.T, ends chan error) error {
	t.Helper()
	select {
	case err := <-ends:
		return err
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
		return nil
	}
}

// What came before Begin is forwarded, and what comes later, in order, until the end.
func TestForwarder(t *testing.T) {
	const pieces = 10_000
	s := make(source, 2*pieces)
	var f Forwarder
	var want, got bytes.Buffer
	put := func(i int) {
		data := []byte{byte(i), byte(i >> 8)}
		want.Write(data)
		s <- data
		f.Wake()
	}
	for i := range pieces {
		put(i)
	}
	ends := make(chan error, 2)
	f.Begin(s.next, &got, func(err error) { ends <- err })
	for i := range pieces {
		put(i)
	}
	close(s)
	f.Wake()
	if err := end(t, ends); err != nil {
		t.Errorf("ended with %v", err)
	}
	if !bytes.Equal(want.Bytes(), got.Bytes()) {
		t.Errorf("%d bytes of %d came, or others", got.Len(), want.Len())
	}
	f.Wake() // nothing comes of it
	if len(ends) > 0 {
		t.Error("the end was told twice")
	}
}

func TestForwarderFails(t *testing.T) {
	errSource := errors.New("lost")
	for name, test := range map[string]struct {
		next func() ([]byte, error)
		w    io.Writer
		want error
	}{
		"source": {func() ([]byte, error) { return nil, errSource }, io.Discard, errSource},
		"writer": {func() ([]byte, error) { return []byte("x"), nil }, broken{}, errBroken},
		"short":  {func() ([]byte, error) { return []byte("xyz"), nil }, &narrow{width: 2}, io.ErrShortWrite},
	} {
		t.Run(name, func(t *testing.T) {
			var f Forwarder
			ends := make(chan error, 2)
			f.Begin(test.next, test.w, func(err error) { ends <- err })
			if err := end(t, ends); !errors.Is(err, test.want) {
				t.Errorf("ended with %v", err)
			}
			f.Wake()
			if len(ends) > 0 {
				t.Error("the end was told twice")
			}
		})
	}
}
