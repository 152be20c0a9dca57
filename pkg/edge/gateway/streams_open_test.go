package gateway_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// An id is good for the device that was asked, once.
func TestStreamID(t *testing.T) {
	w := newWorld(t)
	ids := make(chan string, 1)
	_, s := connectedWith(t, w, func(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream) {
		ids <- req.Id
		_ = s.Ready()
		<-ctx.Done()
	})
	st, err := s.OpenStream(t.Context(), execRequest("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	other := certificateIn(t, w.enrol(t, w.directory.put("device-2", "uid-2")))
	for _, id := range []string{receive(t, ids, "the id"), "", "guess"} {
		call, err := w.rawClient(t, other).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = call.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Open{Open: &edgeapi.StreamOpen{Id: id}}})
		_, err = call.Recv()
		wantCode(t, err, codes.NotFound, "nobody waits")
	}
}

// A device that begins many streams and says nothing on them has few of them read at a time.
func TestStreamsWithoutFirstFrame(t *testing.T) {
	const maxOpening = 16
	w := newWorld(t)
	client := w.rawClient(t, certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1"))))
	begin := func(ctx context.Context) grpc.BidiStreamingClient[edgeapi.StreamFrame, edgeapi.StreamFrame] {
		call, err := client.Stream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return call
	}
	fence := func() { // what was sent before has been read by the server
		_, _ = client.Renew(t.Context(), &edgeapi.RenewRequest{Csr: []byte("none")})
	}
	silent, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range maxOpening {
		begin(silent)
	}
	for range 20 {
		fence()
	}
	call := begin(t.Context())
	_ = call.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Open{Open: &edgeapi.StreamOpen{Id: "guess"}}})
	answered := make(chan error, 1)
	go func() {
		_, err := call.Recv()
		answered <- err
	}()
	for range 20 {
		fence()
	}
	select {
	case err := <-answered:
		t.Errorf("one more is read: %v", err)
		return
	default:
	}
	cancel()
	wantCode(t, receive(t, answered, "the answer"), codes.NotFound, "nobody waits")
}

// Another device that knows an id which is still open cannot take the stream.
func TestStreamIDOfAnother(t *testing.T) {
	w := newWorld(t)
	thief := certificateIn(t, w.enrol(t, w.directory.put("device-2", "uid-2")))
	victim := certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	control, err := w.rawClient(t, victim).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Send(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: &edgeapi.Hello{}}}); err != nil {
		t.Fatal(err)
	}
	s := w.handler.next(t, "started").s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.OpenStream(ctx, execRequest("secret"))
	}()
	defer func() { cancel(); <-done }()
	for {
		msg, err := control.Recv()
		if err != nil {
			t.Fatal(err)
		}
		open := msg.GetOpenStream()
		if open == nil {
			continue
		}
		if len(open.Id) < 22 {
			t.Errorf("id %q is short", open.Id)
		}
		call, err := w.rawClient(t, thief).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = call.Send(&edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Open{Open: &edgeapi.StreamOpen{Id: open.Id}}})
		_, err = call.Recv()
		wantCode(t, err, codes.NotFound, "nobody waits")
		return
	}
}
