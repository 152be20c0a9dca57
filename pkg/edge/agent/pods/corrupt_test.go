package pods

import (
	"os"
	"path/filepath"
	"testing"
)

// A record that cannot be read is told of, keeps nothing else from running, and what runs of its pod is
// taken up again, not restarted, when the pod comes again from the cloud.
func TestCorruptRecord(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		lost, kept := newPod("lost", box("first")), newPod("kept", box("second"))
		a.run(lost)
		a.run(kept)
		before := a.runtime.running()
		a.stop()
		path := filepath.Join(a.dir, "state", "desired", string(lost.UID)+".pod")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a.start()
		a.settle()
		if !a.sink.hasEvent("Warning CorruptState : the record " + path + " cannot be used and was renamed to") {
			t.Errorf("nobody is told: %q", a.sink.events)
		}
		if len(a.manager.Digests()) != 1 || len(a.runtime.running()) != 2 {
			t.Errorf("the agent knows %v, %v run", a.manager.Digests(), a.runtime.running())
		}
		a.run(lost)
		if after := a.runtime.running(); after["first"] != before["first"] || after["second"] != before["second"] {
			t.Errorf("before %v, after %v", before, after)
		}
		if _, err := os.Stat(path + ".corrupt"); !os.IsNotExist(err) {
			t.Errorf("what was set aside still lies there: %v", err)
		}
	})
}
