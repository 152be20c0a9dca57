package host

import (
	"errors"
	"path/filepath"
	"testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestContainersThatAreNotThere(t *testing.T) {
	h := newHost(t)
	ref := &edgeapi.ContainerRef{PodUid: "uid", Container: "main"}
	for name, request := range map[string]*edgeapi.OpenStream{
		"exec":   execRequest(&edgeapi.Exec{Container: ref, Command: []string{"true"}}),
		"attach": {Request: &edgeapi.OpenStream_Attach{Attach: &edgeapi.Attach{Container: ref}}},
		"log":    logRequest(&edgeapi.Log{Source: &edgeapi.Log_Container{Container: ref}}),
		"dial":   dialRequest(&edgeapi.Dial{PodUid: "uid", Port: 80}),
	} {
		if got := open(t, h, request).refused(); got.Reason != "NotFound" {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if got := open(t, h, &edgeapi.OpenStream{}).refused(); got.Reason != "BadRequest" {
		t.Errorf("an unknown kind of session gave %v", got)
	}
}

// creating has a container that is being created.
type creating struct{ nothing }

var errCreating = errors.New(`container "main" in pod "web" is waiting to start: ContainerCreating`)

func (creating) ContainerID(string, string) (string, error) { return "", errCreating }
func (creating) ContainerLog(string, string, bool) (path, id string, err error) {
	return "", "", errCreating
}

// TestContainerThatIsBeingCreated: a request that came too early is a bad one, in the words of who knows.
func TestContainerThatIsBeingCreated(t *testing.T) {
	h := newHost(t)
	h.config.Pods = creating{}
	ref := &edgeapi.ContainerRef{PodUid: "uid", Container: "main"}
	for name, request := range map[string]*edgeapi.OpenStream{
		"exec":   execRequest(&edgeapi.Exec{Container: ref, Command: []string{"true"}}),
		"attach": {Request: &edgeapi.OpenStream_Attach{Attach: &edgeapi.Attach{Container: ref}}},
		"log":    logRequest(&edgeapi.Log{Source: &edgeapi.Log_Container{Container: ref}}),
	} {
		if got := open(t, h, request).refused(); got.Reason != "BadRequest" || got.Message != errCreating.Error() {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// lostLog has containers whose log somebody has removed.
type lostLog struct {
	nothing
	path string
}

func (l lostLog) ContainerLog(string, string, bool) (path, id string, err error) {
	return l.path, "container-id", nil
}

// TestLogThatIsGone is refused: once a log has begun, a kubelet endpoint cannot tell its client of errors.
func TestLogThatIsGone(t *testing.T) {
	h := newHost(t)
	h.config.Pods = lostLog{path: filepath.Join(t.TempDir(), "0.log")}
	got := open(t, h, logRequest(&edgeapi.Log{Source: &edgeapi.Log_Container{Container: &edgeapi.ContainerRef{PodUid: "uid", Container: "main"}}})).refused()
	if got.Reason != "BadRequest" || got.Message != `the log of container "main" is not on the device any more` {
		t.Errorf("got %v", got)
	}
}
