package cri

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// refusing is a connection to a runtime that cannot connect to the port, and whose message comes late.
type refusing struct {
	httpstream.Connection
	dataErr error // of creating the data stream
}

func (c *refusing) CreateStream(headers http.Header) (httpstream.Stream, error) {
	if headers.Get(v1.StreamType) == v1.StreamTypeError {
		return &lateStream{reader: strings.NewReader("connection refused")}, nil
	}
	return &lateStream{reader: strings.NewReader("")}, c.dataErr
}

// CloseChan is that of a connection that has ended.
func (c *refusing) CloseChan() <-chan bool {
	ended := make(chan bool)
	close(ended)
	return ended
}

func (c *refusing) Close() error { return nil }

type lateStream struct {
	httpstream.Stream
	reader *strings.Reader
}

func (s *lateStream) Read(p []byte) (int, error) {
	if s.reader.Len() > 0 {
		time.Sleep(time.Second) // of the bubble's clock
	}
	return s.reader.Read(p)
}

func (s *lateStream) Close() error { return nil }

// What the runtime says of a port is heard, whatever comes first: the end of the data, of the connection, or the message.
func TestPodConnTellsWhy(t *testing.T) {
	for name, dataErr := range map[string]error{"ended": nil, "reset at once": errors.New("stream reset")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, err := newPodConn(t.Context(), &refusing{dataErr: dataErr}, 83)
				if (err != nil) != (dataErr != nil) {
					t.Fatalf("newPodConn: %v", err)
				}
				if err == nil {
					_, err = io.ReadAll(conn)
				}
				if err == nil || !strings.Contains(err.Error(), "port 83: connection refused") {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
