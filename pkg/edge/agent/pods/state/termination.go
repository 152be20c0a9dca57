package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxMessage      = 4096
	maxMessageLines = 80
	maxMessageLog   = 2048
)

// terminationFile is what the container has at the path, on the device; empty if there is nothing.
func terminationFile(s *runtimeapi.ContainerStatus, path string) string {
	if path == "" {
		return ""
	}
	path = filepath.Join("/", path)
	for _, mount := range s.Mounts {
		if mount.ContainerPath == path {
			return mount.HostPath
		}
	}
	return ""
}

// terminationMessage reads the file that the container could write to, and if that is empty and
// fallback is set, the end of its log.
func terminationMessage(s *runtimeapi.ContainerStatus, file string, fallback bool) string {
	if file != "" {
		data, err := readTail(file, maxMessage)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return fmt.Sprintf("Error on reading termination log %s: %v", file, err)
		case len(data) > 0:
			return string(data)
		}
	}
	if !fallback || s.LogPath == "" {
		return ""
	}
	return logTail(s.LogPath)
}

// readTail reads at most the last n bytes of a regular file: a container must not be able to make the
// agent wait on a pipe that it put there.
func readTail(path string, n int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size := info.Size(); size > n {
		if _, err := f.Seek(size-n, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, n))
}

// logTail returns the last lines of a log in CRI's format, without what CRI adds to each.
func logTail(path string) string {
	// Each line has a timestamp, a stream and a tag before the text.
	data, err := readTail(path, maxMessageLog+maxMessageLines*64)
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > maxMessageLines+1 {
		lines = lines[len(lines)-maxMessageLines-1:]
	}
	var out strings.Builder
	for _, line := range lines {
		parts := bytes.SplitN(line, []byte(" "), 4)
		if len(parts) < 4 {
			continue // the first line, cut off in its middle
		}
		if string(parts[1]) != "stdout" && string(parts[1]) != "stderr" {
			continue
		}
		if string(parts[2]) == "P" {
			parts[3] = bytes.TrimSuffix(parts[3], []byte("\n"))
		}
		out.Write(parts[3])
	}
	text := out.String()
	if text == "" && len(lines) > 0 {
		text = string(lines[0]) // a single line that is longer than what was read
	}
	if len(text) > maxMessageLog {
		text = text[len(text)-maxMessageLog:]
	}
	return text
}
