package shim

import (
	"syscall"
	"testing"
)

// TestNothingStartsAfterTheEnd has an exec that was asked for while the container ran and comes to be after
// all of its processes have been killed.
func TestNothingStartsAfterTheEnd(t *testing.T) {
	p := &processes{spec: &Spec{Cwd: "/"}, waiters: map[int]chan syscall.WaitStatus{}}
	p.killAll(0)
	reply := p.fork(spawnRequest{args: []string{"/bin/true"}})
	if reply.err == nil || reply.err.Error() != "the container has ended" {
		t.Errorf("got process %+v, error %v", reply.process, reply.err)
	}
}
