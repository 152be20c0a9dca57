package gateway_test

import (
	"context"
	"io"
	"testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// BenchmarkStream carries bytes from a device to the server over one stream, with TLS, over loopback.
func BenchmarkStream(b *testing.B) {
	w := newWorld(b)
	const chunk = 256 << 10
	_, s := connectedWith(b, w, func(_ context.Context, _ *edgeapi.OpenStream, s *stream.Stream) {
		_ = s.Ready()
		_, _ = io.CopyBuffer(struct{ io.Writer }{s.Writer(edgeapi.Channel_STDOUT)}, zeros{}, make([]byte, chunk))
	})
	st, err := s.OpenStream(b.Context(), execRequest("zeros"))
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	r, buf := st.Reader(edgeapi.Channel_STDOUT), make([]byte, chunk)
	b.SetBytes(chunk)
	for b.Loop() {
		if _, err := io.ReadFull(r, buf); err != nil {
			b.Fatal(err)
		}
	}
}
