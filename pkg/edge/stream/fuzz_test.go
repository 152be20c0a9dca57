package stream_test

import (
	"context"
	"io"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// FuzzFrames feeds whatever a peer may send to both ends.
func FuzzFrames(f *testing.F) {
	var seed []byte
	for _, frame := range []*edgeapi.StreamFrame{
		{Frame: &edgeapi.StreamFrame_Ready{Ready: &edgeapi.StreamReady{}}},
		{Frame: &edgeapi.StreamFrame_Data{Data: &edgeapi.Data{Channel: stdout, Data: []byte("x")}}},
		{Frame: &edgeapi.StreamFrame_Resize{Resize: &edgeapi.TerminalSize{Width: 80, Height: 24}}},
		{Frame: &edgeapi.StreamFrame_Close{Close: stdout}},
		{Frame: &edgeapi.StreamFrame_Result{Result: &edgeapi.Result{ExitCode: 1}}},
	} {
		b, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		seed = protowire.AppendBytes(seed, b)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var frames []*edgeapi.StreamFrame
		for len(data) > 0 {
			b, n := protowire.ConsumeBytes(data)
			if n < 0 {
				break
			}
			data = data[n:]
			frame := &edgeapi.StreamFrame{}
			if proto.Unmarshal(b, frame) == nil {
				frames = append(frames, frame)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		server := stream.NewServer(&fakeCall{ctx: ctx, frames: frames}, cancel)
		go server.Serve()
		go func() { _, _ = io.Copy(io.Discard, server.Reader(stderr)) }()
		n, _ := io.Copy(io.Discard, server.Reader(stdout))
		<-server.Done()
		device := stream.NewDevice(&fakeCall{ctx: ctx, frames: frames})
		_, _ = io.Copy(io.Discard, device.Reader(stdin))
		<-device.Done()
		if n > int64(len(frames))*stream.MaxFrame {
			t.Errorf("%d bytes of %d frames", n, len(frames))
		}
		server.Close()
		device.Close()
	})
}
