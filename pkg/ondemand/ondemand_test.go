package ondemand

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Nothing that was put before a Wake is left lying, and the work never runs twice at a time.
func TestWorker(t *testing.T) {
	const senders, each = 8, 2000
	queue := make(chan int, senders*each)
	var running atomic.Int32
	seen := make([]int, senders) // no lock: the work runs alone
	var all sync.WaitGroup
	all.Add(senders * each)
	w := NewWorker(func() {
		if running.Add(1) != 1 {
			t.Error("the work runs twice at a time")
		}
		defer running.Add(-1)
		for {
			select {
			case sender := <-queue:
				seen[sender]++
				all.Done()
			default:
				return
			}
		}
	})
	for sender := range senders {
		go func() {
			for range each {
				queue <- sender
				w.Wake()
			}
		}()
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%d pieces of work were left lying", len(queue))
	}
}

// A Wake while the work runs has it run again, and a worker without wakes has no goroutine (TestMain).
func TestWakeWhileWorking(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	w := NewWorker(func() {
		entered <- struct{}{}
		<-leave
	})
	w.Wake()
	<-entered
	w.Wake()
	w.Wake() // both are seen by the same next run
	leave <- struct{}{}
	<-entered
	leave <- struct{}{}
	w.Wake()
	<-entered
	leave <- struct{}{}
}
