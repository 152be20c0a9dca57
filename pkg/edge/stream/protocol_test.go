package stream_test

import (
	"context"
	"io"
	"testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// What a device must not do ends the stream.
func TestProtocolViolations(t *testing.T) {
	data := func(ch edgeapi.Channel, n int) *edgeapi.StreamFrame {
		return &edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Data{Data: &edgeapi.Data{Channel: ch, Data: make([]byte, n)}}}
	}
	closed := &edgeapi.StreamFrame{Frame: &edgeapi.StreamFrame_Close{Close: stdout}}
	for name, frames := range map[string][]*edgeapi.StreamFrame{
		"frame too large":     {data(stdout, stream.MaxFrame+1)},
		"data on STDIN":       {data(stdin, 1)},
		"data on channel 99":  {data(99, 1)},
		"data on channel -1":  {data(-1, 1)},
		"data after close":    {closed, data(stdout, 1)},
		"close of channel 77": {{Frame: &edgeapi.StreamFrame_Close{Close: 77}}},
		"empty result":        {{Frame: &edgeapi.StreamFrame_Result{}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, true)
			for _, f := range frames {
				if err := p.raw.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			if result, err := p.server.Wait(t.Context()); err == nil && result.GetReason() == "" && name != "empty result" {
				t.Errorf("got %v", result)
			}
			receive(t, p.server.Done(), "the end")
		})
	}
	t.Run("harmless", func(t *testing.T) {
		p := newPair(t, true)
		for _, f := range []*edgeapi.StreamFrame{{}, {Frame: &edgeapi.StreamFrame_Resize{}}, data(stdout, 0), closed, closed,
			{Frame: &edgeapi.StreamFrame_Ready{}}, {Frame: &edgeapi.StreamFrame_Ready{}},
			{Frame: &edgeapi.StreamFrame_Result{Result: &edgeapi.Result{ExitCode: 1}}}} {
			if err := p.raw.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		if result, err := p.server.Wait(t.Context()); err != nil || result.GetExitCode() != 1 {
			t.Errorf("got %v %v", result, err)
		}
	})
}

// fakeCall feeds frames to one end.
type fakeCall struct {
	ctx    context.Context
	frames []*edgeapi.StreamFrame
}

func (f *fakeCall) Context() context.Context { return f.ctx }

func (f *fakeCall) Send(*edgeapi.StreamFrame) error { return nil }

func (f *fakeCall) Recv() (*edgeapi.StreamFrame, error) {
	if len(f.frames) == 0 {
		return nil, io.EOF
	}
	next := f.frames[0]
	f.frames = f.frames[1:]
	return next, nil
}

// BenchmarkThroughput carries bytes from the device to the server without TLS.
func BenchmarkThroughput(b *testing.B) {
	p := newPair(b, false)
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, p.server.Reader(stdout))
	}()
	w := p.device.Writer(stdout)
	for b.Loop() {
		if _, err := w.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = p.device.Finish(nil)
	<-done
}
