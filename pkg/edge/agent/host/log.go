package host

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// maxStderr bounds what is kept of journalctl's complaints in bytes.
const maxStderr = 4096

func (h *Host) log(ctx context.Context, r *edgeapi.Log, s *stream.Stream) error {
	closeStdin(s)
	if seconds := r.GetSinceSeconds(); seconds > 0 {
		// A clock that is not set yet may have begun later than that: then it is all.
		r.SinceNs = max(0, time.Now().Add(-time.Duration(seconds)*time.Second).UnixNano())
	}
	switch source := r.GetSource().(type) {
	case *edgeapi.Log_Container:
		return h.logContainer(ctx, source.Container, r, s)
	case *edgeapi.Log_Path:
		return h.logPath(ctx, source.Path, r, s)
	case *edgeapi.Log_Unit:
		return h.logUnit(ctx, source.Unit, r, s)
	default:
		return h.logAgent(ctx, r, s)
	}
}

func (h *Host) logAgent(ctx context.Context, r *edgeapi.Log, s *stream.Stream) error {
	if err := h.demand(rightLog); err != nil {
		return err
	}
	if h.config.AgentLog == "" {
		return failf(metav1.StatusReasonNotFound, "the agent keeps no log file (logging.file.disabled in its arhat.yaml); if it runs under systemd, ask for its unit")
	}
	f := &follower{path: h.config.AgentLog, open: openRegular, from: r}
	return f.send(ctx, s, &timedLines{since: r.GetSinceNs(), keepTime: r.GetTimestamps()})
}

func (h *Host) logPath(ctx context.Context, path string, r *edgeapi.Log, s *stream.Stream) error {
	if err := h.demand(rightLog); err != nil {
		return err
	}
	if !filepath.IsAbs(path) {
		return failf(metav1.StatusReasonBadRequest, "the path %q is not absolute", path)
	}
	f := &follower{path: filepath.Clean(path), open: h.openAllowed, from: r}
	return f.send(ctx, s, nil)
}

// unitName is what systemd allows, without the patterns that journalctl would expand.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,255}$`)

func (h *Host) logUnit(ctx context.Context, unit string, r *edgeapi.Log, s *stream.Stream) error {
	if err := h.demand(rightLog); err != nil {
		return err
	}
	if !unitName.MatchString(unit) {
		return failf(metav1.StatusReasonBadRequest, "%q is not the name of a unit", unit)
	}
	if !h.config.Policy.AllowsUnit(unit) {
		return failf(metav1.StatusReasonForbidden, "the device's own policy forbids reading the journal of %q (it is not in policy.hostLog.units of its arhat.yaml)", unit)
	}
	journalctl, err := exec.LookPath("journalctl")
	if err != nil {
		return failf(metav1.StatusReasonBadRequest, "the device has no systemd journal: journalctl is not installed")
	}
	if err := s.Ready(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.Command(journalctl, journalArgs(unit, r)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = currentAccount().environment(false)
	lines := &limitedWriter{w: s.Writer(edgeapi.Channel_STDOUT), left: r.GetLimitBytes(), full: cancel}
	said := &limitedWriter{left: maxStderr}
	out := &output{patience: h.patience}
	defer out.close()
	if err := errors.Join(out.pipe(&cmd.Stdout, lines), out.pipe(&cmd.Stderr, said)); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	out.carry()
	err = wait(ctx, cmd)
	out.drain()
	if lines.reached {
		return nil
	}
	var exit *exec.ExitError
	if err != nil && ctx.Err() == nil && errors.As(err, &exit) {
		return failf(metav1.StatusReasonInternalError, "journalctl failed: %v: %s", err, said.kept)
	}
	return commandError(ctx, err)
}

func journalArgs(unit string, r *edgeapi.Log) []string {
	args := []string{"--no-pager", "--quiet", "--all", "--unit=" + unit}
	if r.GetTimestamps() {
		args = append(args, "--output=short-iso-precise")
	} else {
		args = append(args, "--output=cat")
	}
	if n := r.GetTailLines(); n >= 0 {
		args = append(args, "--lines="+strconv.FormatInt(n, 10))
	} else if r.GetFollow() {
		args = append(args, "--lines=all") // following shows ten lines otherwise
	}
	if ns := r.GetSinceNs(); ns > 0 {
		args = append(args, "--since="+time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	if r.GetFollow() {
		args = append(args, "--follow")
	}
	return args
}

// limitedWriter passes on, or keeps, so many bytes and drops the rest.
type limitedWriter struct {
	w       io.Writer // nil: keep
	left    int64     // negative: no limit
	full    func()    // called when the limit is reached; may be nil
	reached bool
	kept    []byte
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	n := len(p)
	if l.left >= 0 {
		p = p[:min(int64(n), l.left)]
		l.left -= int64(len(p))
	}
	if l.w == nil {
		l.kept = append(l.kept, p...)
	} else if _, err := l.w.Write(p); err != nil {
		return 0, err
	}
	if l.left == 0 && !l.reached {
		l.reached = true
		if l.full != nil {
			l.full()
		}
	}
	return n, nil
}
