package mqtt

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func kinds(frames []frame) (all []frameType) {
	for _, f := range frames {
		all = append(all, f.kind)
	}
	return all
}

// TestLastDataIsConfirmed: what was sent last may be lost like anything else, and nothing may follow for long.
func TestLastDataIsConfirmed(t *testing.T) {
	const read, unread = true, false
	for name, tt := range map[string]struct {
		confirmed bool
		want      []frameType
	}{
		"read":         {read, []frameType{frameAccept, frameData}},
		"lost, or not": {unread, []frameType{frameAccept, frameData, frameCredit}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnd(t)
				e.out.firstLimit = windowFrames
				if _, err := e.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if tt.confirmed {
					e.receive(&frame{kind: frameCredit, id: e.id, seq: 1, creditBytes: windowBytes + 1, creditFrames: windowFrames + 1}, &e.counters)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				frames := e.wire.sent()
				if got := kinds(frames); !slices.Equal(got, tt.want) {
					t.Fatalf("%v were sent, not %v", got, tt.want)
				}
				// The other end, if it has lost the data.
				last := frames[len(frames)-1]
				other := newEnd(t)
				other.receive(&last, &other.counters)
				_, err := other.Write([]byte("y"))
				if lost := err != nil && strings.Contains(err.Error(), "frame 1 is missing"); lost == tt.confirmed {
					t.Errorf("without the data: %v", err)
				}
			})
		})
	}
}

// TestBusyLinkIsNotAskedToConfirm: data that follow tell as much.
func TestBusyLinkIsNotAskedToConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnd(t)
		e.out.firstLimit = windowFrames
		const n = 20
		for range n {
			if _, err := e.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(confirmTime / 2)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := kinds(e.wire.sent()); len(got) != n+2 || got[n+1] != frameCredit {
			t.Errorf("%v were sent", got)
		}
	})
}
