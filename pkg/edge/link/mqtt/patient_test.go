package mqtt

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A broker has writeTime to take the next bytes, not all of a message, however many writes that takes.
func TestPatient(t *testing.T) {
	for name, tt := range map[string]struct {
		writes []int // bytes
		reads  int   // of 1 KiB each
		want   error
	}{
		"slow":                 {[]int{4 << 10}, 4, nil},
		"slow, several writes": {[]int{1 << 10, 1 << 10, 2 << 10}, 4, nil},
		"stuck":                {[]int{4 << 10}, 0, os.ErrDeadlineExceeded},
		"gave out":             {[]int{4 << 10}, 3, os.ErrDeadlineExceeded},
		"gave out in between":  {[]int{1 << 10, 3 << 10}, 1, os.ErrDeadlineExceeded},
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
				c := &patient{Conn: near}
				_ = c.SetWriteDeadline(time.Now().Add(writeTime)) // for all of them
				total := 0
				var err error
				for _, size := range tt.writes {
					var n int
					n, err = c.Write(make([]byte, size))
					total += n
				}
				if total != tt.reads<<10 || !errors.Is(err, tt.want) {
					t.Errorf("wrote %d bytes, %v", total, err)
				}
				if tt.want == nil {
					return
				}
				begin := time.Now() // TLS says goodbye before it closes a connection
				if n, err := c.Write([]byte("goodbye")); n != 0 || !errors.Is(err, tt.want) || time.Since(begin) != 0 {
					t.Errorf("wrote %d bytes after that, %v, after %s", n, err, time.Since(begin))
				}
			})
		})
	}
}
