package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/agent/pods"
)

// ownerForm is what ownerOf returns. It becomes a label's value and a part of a cgroup's name.
var ownerForm = regexp.MustCompile(`^` + pods.DefaultOwner + `(-[0-9a-f]{8})?$`)

// owner marks what is this agent's in a container runtime that several agents share. It is kept with the state:
// what runs must be found again when the state directory has been moved.
func (a *Agent) owner(ctx context.Context) (string, error) {
	path := filepath.Join(a.config.StateDir, fileOwner)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// The file may be good. With another mark every pod would run twice.
		return "", fmt.Errorf("cannot tell which containers are this agent's: %w", err)
	}
	owner := strings.TrimSpace(string(data))
	if ownerForm.MatchString(owner) {
		return owner, nil
	}
	owner = ownerOf(a.config.StateDir)
	if err == nil {
		err = fmt.Errorf("the file %s is damaged: what the agent started before its state directory was moved, if it was, is not taken up again", path)
		klog.FromContext(ctx).Error(err, "A part of the state was lost")
		a.reportLoss(err)
	}
	if err := diskfile.Replace(path, []byte(owner+"\n"), true); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot keep what marks the containers of this agent; they would be lost if the state directory were moved")
	}
	return owner, nil
}

// ownerOf is the mark of an agent that begins with a state directory.
func ownerOf(stateDir string) string {
	if stateDir == config.DefaultStateDir {
		return pods.DefaultOwner
	}
	sum := sha256.Sum256([]byte(stateDir))
	return pods.DefaultOwner + "-" + hex.EncodeToString(sum[:4])
}
