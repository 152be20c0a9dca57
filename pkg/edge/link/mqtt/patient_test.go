package mqtt

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A broker has writeTime to take the next bytes, not all of a message.
func TestPatient(t *testing.T) {
	for name, tt := range map[string]struct {
		reads int // of 1 KiB each
		want  error
	}{
		"slow":     {4, nil},
		"stuck":    {0, os.ErrDeadlineExceeded},
		"gave out": {3, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, broker := net.Pipe()
				defer near.Close()
				defer broker.Close()
				go func() {
					for range tt.reads {
						time.Sleep(writeTime * 3 / 5)
						_, _ = broker.Read(make([]byte, 1<<10))
					}
				}()
				c := patient{near}
				_ = c.SetWriteDeadline(time.Now().Add(writeTime))
				if n, err := c.Write(make([]byte, 4<<10)); n != tt.reads<<10 || !errors.Is(err, tt.want) {
					t.Errorf("wrote %d bytes, %v", n, err)
				}
			})
		})
	}
}
