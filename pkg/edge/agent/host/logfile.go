package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

const (
	// followPeriod is how often a file that is followed is looked at.
	followPeriod = 500 * time.Millisecond
	// tailBlock is how much is read at a time when looking for the last lines, in bytes.
	tailBlock = 32 << 10
	// maxTimedLine bounds what is held back of a line of the agent's log in bytes.
	maxTimedLine = 64 << 10
)

// openAllowed opens a log file if the policy allows the file that the path really leads to.
func (h *Host) openAllowed(path string) (*os.File, error) {
	forbidden := failf(metav1.StatusReasonForbidden, "the device's own policy forbids reading %s (no pattern in policy.hostLog.paths of its arhat.yaml matches, or it leads elsewhere by a symbolic link)", path)
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		if !h.config.Policy.AllowsLogPath(path) {
			return nil, forbidden // not even whether it exists is told
		}
		return nil, openError(path, err)
	}
	if !h.config.Policy.AllowsLogPath(resolved) {
		return nil, forbidden
	}
	f, err := openRegular(resolved)
	if err != nil {
		return nil, err
	}
	// What was opened counts, not what the path led to a moment before.
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil || !h.config.Policy.AllowsLogPath(real) {
		return nil, errors.Join(forbidden, f.Close())
	}
	return f, nil
}

// openRegular opens a regular file, and nothing that would block or act when it is opened.
func openRegular(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, openError(path, err)
	}
	notRegular := failf(metav1.StatusReasonBadRequest, "%s is not a regular file", path)
	if !info.Mode().IsRegular() {
		return nil, notRegular
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(notRegular, f.Close())
	}
	return f, nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return failf(metav1.StatusReasonNotFound, "the device has no file %s", path)
	case errors.Is(err, fs.ErrPermission):
		return failf(metav1.StatusReasonForbidden, "the agent has no permission to read %s", path)
	}
	return err
}

// follower sends a file, and what is added to it, across rotations by rename or truncation.
type follower struct {
	path string
	open func(string) (*os.File, error)
	from *edgeapi.Log
}

// send sends the file through a filter, which may be nil.
func (l *follower) send(ctx context.Context, s *stream.Stream, filter *timedLines) error {
	f, err := l.open(l.path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	if n := l.from.GetTailLines(); n >= 0 {
		if err := seekTail(f, n); err != nil {
			return err
		}
	}
	if err := s.Ready(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limited := &limitedWriter{w: s.Writer(edgeapi.Channel_STDOUT), left: l.from.GetLimitBytes(), full: cancel}
	var out io.Writer = limited
	if filter != nil {
		filter.w = limited
		out = filter
	}
	ticker := time.NewTicker(followPeriod)
	defer ticker.Stop()
	for {
		if _, err := io.Copy(plainWriter{out}, &contextReader{ctx, f}); err != nil && ctx.Err() == nil {
			return err
		}
		switch {
		case limited.reached:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !l.from.GetFollow():
			if filter != nil {
				return filter.flush()
			}
			return nil
		}
		if next, err := l.rotated(f); err != nil {
			return err
		} else if next != nil {
			// What was written between the last read and the rotation is still to come.
			if _, err := io.Copy(plainWriter{out}, &contextReader{ctx, f}); err != nil && ctx.Err() == nil {
				return errors.Join(err, next.Close())
			}
			_ = f.Close()
			f = next
			continue
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// rotated returns the file that has taken the place of f, if any, and goes back to the beginning of
// one that was truncated.
func (l *follower) rotated(f *os.File) (*os.File, error) {
	now, err := f.Stat()
	if err != nil {
		return nil, err
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	if now.Size() < offset {
		_, err := f.Seek(0, io.SeekStart)
		return nil, err
	}
	info, err := os.Stat(l.path)
	if err != nil || os.SameFile(info, now) {
		return nil, nil //nolint:nilerr // between rename and create there is no file
	}
	next, err := l.open(l.path)
	var f2 *failure
	if errors.As(err, &f2) && f2.reason == metav1.StatusReasonNotFound {
		return nil, nil
	}
	return next, err
}

// seekTail goes to the beginning of the last n lines. A last line without an end counts as one.
func seekTail(f *os.File, n int64) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	buffer := make([]byte, tailBlock)
	for at := end; at > 0; {
		size := min(at, tailBlock)
		at -= size
		block := buffer[:size]
		if _, err := f.ReadAt(block, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if at+size == end && block[size-1] == '\n' {
			block = block[:size-1] // the end of the last line
		}
		for i := bytes.LastIndexByte(block, '\n'); i >= 0; i = bytes.LastIndexByte(block[:i], '\n') {
			if n--; n == 0 {
				_, err := f.Seek(at+int64(i)+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// contextReader stops reading when a context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// jsonTime is how lines of JSON in the agent's log begin.
var jsonTime = []byte(`{"time":"`)

// timedLines filters lines that begin with a time and a space, or are JSON that begins with a time, as the agent's log has
// them.
type timedLines struct {
	w        io.Writer
	since    int64 // Unix nanoseconds
	keepTime bool
	line     []byte
	passing  bool // whether the last line with a time was passed on: what follows it belongs to it
}

// Write takes whole or partial lines.
func (t *timedLines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			end = len(p)
		}
		t.line = append(t.line, p[:end]...)
		p = p[end:]
		if t.line[len(t.line)-1] != '\n' && len(t.line) < maxTimedLine {
			break
		}
		if err := t.flush(); err != nil {
			return n - len(p), err
		}
	}
	return n, nil
}

func (t *timedLines) flush() error {
	line := t.line
	t.line = t.line[:0]
	text, rest, _ := bytes.Cut(line, []byte(" "))
	if entry, ok := bytes.CutPrefix(line, jsonTime); ok {
		text, _, _ = bytes.Cut(entry, []byte(`"`))
		rest = line // as a whole
	}
	if at, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
		t.passing = at.UnixNano() >= t.since
		line = rest
		if t.keepTime {
			line = slices.Concat(text, []byte(" "), rest)
		}
	}
	if !t.passing && t.since > 0 || len(line) == 0 {
		return nil
	}
	_, err := t.w.Write(line)
	return err
}
