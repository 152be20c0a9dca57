package agent

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/pkg/edge/agent/config"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestOwner(t *testing.T) {
	for name, tt := range map[string]struct {
		file string // "" is none
		want string // "" is that of the path
		lost bool
	}{
		"begins":       {"", "", false},
		"default":      {"arhat\n", "arhat", false},
		"another path": {"arhat-0123abcd\n", "arhat-0123abcd", false},
		"empty":        {"\n", "", true},
		"damaged":      {"arhat-../../x\n", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, fileOwner), []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want := cmp.Or(tt.want, ownerOf(dir))
			a := &Agent{config: &config.Configuration{StateDir: dir}, outbox: newOutbox()}
			if got, err := a.owner(t.Context()); err != nil || got != want {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
			if lost := len(a.outbox.events) > 0; lost != tt.lost {
				t.Errorf("told of a loss: %t", lost)
			}
			moved := filepath.Join(t.TempDir(), "moved")
			if err := os.Rename(dir, moved); err != nil {
				t.Fatal(err)
			}
			a.config.StateDir = moved
			if got, err := a.owner(t.Context()); err != nil || got != want {
				t.Errorf("got %s, %v once it was moved, want %s", got, err, want)
			}
		})
	}
}

// TestOwnerUnread has a file that cannot be read, and may be good.
func TestOwnerUnread(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileOwner)
	if err := os.Symlink(path, path); err != nil { // fails to be resolved
		t.Fatal(err)
	}
	a := &Agent{config: &config.Configuration{StateDir: dir}, outbox: newOutbox()}
	if got, err := a.owner(t.Context()); !errors.Is(err, unix.ELOOP) || got != "" {
		t.Errorf("got %q, %v", got, err)
	}
	if to, err := os.Readlink(path); err != nil || to != path {
		t.Errorf("the file was replaced: %q, %v", to, err)
	}
	if len(a.outbox.events) > 0 {
		t.Error("told of a loss")
	}
}

// The path of those that have no file of it yet says whose the containers are.
func TestOwnerOfAPath(t *testing.T) {
	for dir, want := range map[string]string{
		config.DefaultStateDir: "arhat",
		"/data/arhat":          "arhat-",
	} {
		if got := ownerOf(dir); !strings.HasPrefix(got, want) || !ownerForm.MatchString(got) {
			t.Errorf("%s has %s", dir, got)
		}
	}
}

// Who moves the state directory finds the pods as they were.
func TestMovedStateDirectory(t *testing.T) {
	c := newCloud(t)
	d := newDevice(t, c)
	s := c.connected()
	c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DesiredPods{DesiredPods: &edgeapi.DesiredPods{}}})
	c.run(s, hostPod("web", "trap 'exit 0' TERM; while :; do sleep 0.05; done"))
	c.eventually("the pod runs", func() bool { return running(c.statuses["web-uid"]) })
	before := c.container("web-uid")
	d.stop()
	c.eventually("the session ends", func() bool { return c.session == nil })
	c.mu.Lock()
	clear(c.statuses)
	c.mu.Unlock()

	moved := d.config.StateDir + "-moved"
	if err := os.Rename(d.config.StateDir, moved); err != nil {
		t.Fatal(err)
	}
	d.config.StateDir = moved
	d.start()
	s = c.connected()
	c.eventually("the pod runs", func() bool { return running(c.statuses["web-uid"]) })
	if after := c.container("web-uid"); after.ContainerID != before.ContainerID || after.RestartCount != before.RestartCount {
		t.Errorf("the container was\n%v, is\n%v", before, after)
	}
	mainPID(t, moved) // of the only container
	c.send(s, &edgeapi.ServerMessage{Message: &edgeapi.ServerMessage_DeletePod{DeletePod: &edgeapi.DeletePod{Uid: "web-uid", GracePeriodSeconds: 5}}})
	c.eventually("the pod is removed", func() bool { return c.removed["web-uid"] })
}
