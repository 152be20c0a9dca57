// Package eventually has tests wait for what something concurrent brings about.
package eventually

import (
	"errors"
	"testing"
	"time"
)

const (
	// timeout is what a test takes only if it fails.
	timeout  = time.Minute
	interval = 5 * time.Millisecond
)

// Holds waits until a condition holds.
func Holds(t testing.TB, what string, condition func() bool) {
	t.Helper()
	Succeeds(t, func() error {
		if !condition() {
			return errors.New(what)
		}
		return nil
	})
}

// Succeeds waits until check returns no error.
func Succeeds(t testing.TB, check func() error) {
	t.Helper()
	for end := time.Now().Add(timeout); ; time.Sleep(interval) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %v", timeout, err)
		}
	}
}
