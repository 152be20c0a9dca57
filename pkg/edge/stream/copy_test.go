package stream_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// io.Copy to and from a channel takes the ways of their own, which must carry the same as Read and Write.
func TestCopy(t *testing.T) {
	random := make([]byte, 1<<20+17)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(random)
	for name, source := range map[string]func(io.Reader) io.Reader{
		"at once":           func(r io.Reader) io.Reader { return r },
		"byte by byte":      func(r io.Reader) io.Reader { return iotest.OneByteReader(io.LimitReader(r, 2000)) },
		"by halves":         iotest.HalfReader,
		"the end with data": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			want, err := io.ReadAll(source(bytes.NewReader(random)))
			if err != nil {
				t.Fatal(err)
			}
			p := newPair(t, false)
			sent := make(chan error, 1)
			go func() {
				w := p.device.Writer(edgeapi.Channel_STDOUT)
				// Without a WriterTo, which bytes.Reader has.
				n, err := io.Copy(w, struct{ io.Reader }{source(bytes.NewReader(random))})
				if err == nil && n != int64(len(want)) {
					err = errors.New("it says that another number of bytes was sent")
				}
				sent <- errors.Join(err, w.Close())
			}()
			var got bytes.Buffer
			n, err := io.Copy(struct{ io.Writer }{&got}, p.server.Reader(edgeapi.Channel_STDOUT))
			if err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%d of %d bytes arrived, error %v", n, len(want), err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		})
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestCopyEndsWithErrors(t *testing.T) {
	p := newPair(t, false)
	broken := errors.New("broken")
	w := p.device.Writer(edgeapi.Channel_STDOUT)
	if n, err := io.Copy(w, io.MultiReader(bytes.NewReader(make([]byte, 3000)), iotest.ErrReader(broken))); n != 3000 || !errors.Is(err, broken) {
		t.Errorf("%d bytes, error %v", n, err)
	}
	// What a writer did not take can be read.
	r := p.server.Reader(edgeapi.Channel_STDOUT)
	n, err := io.Copy(&failing{after: 600}, r)
	if n > 600 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%d bytes, error %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if int64(len(rest))+n != 3000 || err != nil {
		t.Errorf("%d bytes were left of %d, error %v", len(rest), 3000-n, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := io.Copy(&failing{}, r); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close: %v", err)
	}
}
