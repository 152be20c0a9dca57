package mqtt

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"arhat.dev/aranya/pkg/edge/link"
)

// TestTellsProgress: on a slow link the other end is told of what was read before it needs to know, if it is worth a
// message.
func TestTellsProgress(t *testing.T) {
	for name, tt := range map[string]struct {
		bytes int
		after time.Duration
		told  bool
	}{
		"slow":              {progressBytes, progressTime, true},
		"fast":              {progressBytes, progressTime - 1, false},
		"hardly in use":     {progressBytes - 1, time.Hour, false},
		"a quarter at once": {windowBytes / 4, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnd(t)
				synctest.Wait() // ACCEPT was sent
				time.Sleep(tt.after)
				e.data(1, strings.Repeat("a", tt.bytes))
				e.read(t, tt.bytes)
				synctest.Wait()
				if told := len(e.wire.sent()) > 1; told != tt.told {
					t.Errorf("the other end was told: %t", told)
				}
			})
		})
	}
}

// TestLastTaken: credit shows that the other end reads what was sent, other frames do not.
func TestLastTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnd(t)
		c := link.NewConn(e.conn, link.MethodMQTT)
		begin := time.Now()
		time.Sleep(time.Minute)
		e.data(1, "a")
		if got := c.LastTaken(); !got.Equal(begin) {
			t.Errorf("taken after %s without credit", got.Sub(begin))
		}
		e.receive(&frame{kind: frameCredit, seq: 2, creditBytes: windowBytes + 1, creditFrames: windowFrames}, &e.counters)
		if got := c.LastTaken(); got.Sub(begin) != time.Minute {
			t.Errorf("taken after %s, when credit came after a minute", got.Sub(begin))
		}
	})
}
