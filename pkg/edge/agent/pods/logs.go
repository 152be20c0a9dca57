package pods

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

const (
	logPeriod     = 10 * time.Second
	logTimeFormat = "20060102-150405"
	gzipSuffix    = ".gz"
	tempSuffix    = ".tmp"
)

// rotateLogs keeps the logs of running containers from filling the disk, until the context ends.
func (m *Manager) rotateLogs(ctx context.Context) {
	ticker := m.cfg.Clock.NewTicker(logPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		for _, c := range m.runningContainers() {
			if err := m.rotateLog(ctx, c); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Log of a container cannot be rotated", "containerID", c.ID, "path", c.LogPath)
			}
		}
	}
}

func (m *Manager) runningContainers() []*state.Container {
	var containers []*state.Container
	for _, w := range m.all() {
		w.mu.Lock()
		if w.view != nil {
			for _, c := range w.view.Containers {
				if c.Running() && c.LogPath != "" {
					containers = append(containers, c)
				}
			}
		}
		w.mu.Unlock()
	}
	return containers
}

// rotateLog puts a log aside if it has become too large, and makes the runtime begin a new one.
func (m *Manager) rotateLog(ctx context.Context, c *state.Container) error {
	info, err := os.Stat(c.LogPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the container has been removed
	} else if err != nil {
		return err
	}
	if info.Size() < m.cfg.LogMaxSize {
		return nil
	}
	if err := tidyLogs(c.LogPath, m.cfg.LogMaxFiles); err != nil {
		return err
	}
	aside := c.LogPath + "." + m.cfg.Clock.Now().Format(logTimeFormat)
	if err := os.Rename(c.LogPath, aside); err != nil {
		return err
	}
	if err := m.cfg.Runtime.ReopenContainerLog(ctx, c.ID); err != nil {
		return errors.Join(fmt.Errorf("reopen: %w", err), os.Rename(aside, c.LogPath))
	}
	return nil
}

// tidyLogs removes the oldest of the logs that were put aside, so that one more can be, and compresses
// the rest. The newest of them, which somebody may still be reading, is compressed the next time.
func tidyLogs(path string, maxFiles int) error {
	aside, err := filepath.Glob(escapeGlob(path) + ".*")
	if err != nil {
		return err
	}
	sort.Strings(aside) // by time
	var errs []error
	var kept []string
	for _, file := range aside {
		if strings.HasSuffix(file, tempSuffix) { // of a compression that was interrupted
			errs = append(errs, os.Remove(file))
			continue
		}
		kept = append(kept, file)
	}
	for len(kept) > maxFiles-2 {
		errs = append(errs, os.Remove(kept[0]))
		kept = kept[1:]
	}
	for _, file := range kept {
		if !strings.HasSuffix(file, gzipSuffix) {
			errs = append(errs, compressFile(file))
		}
	}
	return errors.Join(errs...)
}

// compressFile replaces a file by its compressed form.
func compressFile(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := path + tempSuffix
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err == nil {
		err = os.Rename(temp, path+gzipSuffix)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return os.Remove(path)
}

// escapeGlob makes a path match itself only.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
