package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Only what one machine cannot do shows that there are two.
func TestTakeovers(t *testing.T) {
	for name, tt := range map[string]struct {
		boots string // of the links in order, each of which takes the place of the live one before
		every time.Duration
		want  int // the first link that shows it, counted from 0; 0 for none
	}{
		"two machines":                           {"ABABAB", time.Minute, 4},
		"two machines, at the slowest":           {"ABABAB", takeoverWindow / 3, 4},
		"three machines":                         {"ABCBABAC", time.Second, 6},
		"another address, or a flapping network": {"AAAAAAAA", time.Second, 0},
		"reboots":                                {"ABCDEFGH", time.Second, 0},
		"one comes back late":                    {"ABA", time.Second, 0},
		"another boot ID each time":              {"ABACADAEAFAG", time.Second, 0},
		"once in a while":                        {"ABABABAB", takeoverWindow / 2, 0},
		"unknown":                                {"A.A.A.A.", time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			takeovers, device, now := newTakeovers(), Device{Namespace: "ns", Name: "d", UID: "u"}, time.Now()
			boots := strings.Split(strings.ReplaceAll(tt.boots, ".", " "), "")
			first := 0
			for i := 1; i < len(boots); i++ {
				now = now.Add(tt.every)
				// What becomes of other devices is another matter.
				takeovers.add(Device{Namespace: "ns", Name: "other", UID: "u"}, takeover{at: now, by: boots[i-1], from: boots[i]})
				found := takeovers.add(device, takeover{at: now, by: strings.TrimSpace(boots[i]), from: strings.TrimSpace(boots[i-1])})
				if found && first == 0 {
					first = i
				}
			}
			if first != tt.want {
				t.Errorf("found at link %d, want %d", first, tt.want)
			}
		})
	}
}

// What is remembered is bounded, by device and altogether.
func TestTakeoversAreBounded(t *testing.T) {
	takeovers, now := newTakeovers(), time.Now()
	for i := range 10 * takeoversKept {
		takeovers.add(Device{Name: "d"}, takeover{at: now, by: fmt.Sprint(i + 1), from: fmt.Sprint(i)})
	}
	if kept, _ := takeovers.devices.Get(Device{Name: "d"}); len(kept.([]takeover)) != takeoversKept {
		t.Errorf("%d of a device are kept", len(kept.([]takeover)))
	}
	for i := range 2 * takersTracked {
		takeovers.add(Device{Name: fmt.Sprint(i)}, takeover{at: now, by: "a", from: "b"})
	}
	if n := takeovers.devices.Len(); n > takersTracked {
		t.Errorf("%d devices are remembered", n)
	}
}
