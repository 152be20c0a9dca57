package host

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-client/pkg/logs"

	"arhat.dev/aranya/pkg/edge/agent/runtime"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// Sessions in containers need no right on the host: who may have them is decided in the cluster.

func (h *Host) execContainer(ctx context.Context, r *edgeapi.Exec, s *stream.Stream) error {
	id, err := h.containerID(r.GetContainer())
	if err != nil {
		return err
	}
	return withIO(ctx, streams{r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty()}, s, func(ctx context.Context, io runtime.IO) error {
		return h.config.Runtime.ExecStream(ctx, id, r.GetCommand(), io)
	})
}

func (h *Host) attachContainer(ctx context.Context, r *edgeapi.Attach, s *stream.Stream) error {
	id, err := h.containerID(r.GetContainer())
	if err != nil {
		return err
	}
	return withIO(ctx, streams{r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty()}, s, func(ctx context.Context, io runtime.IO) error {
		return h.config.Runtime.AttachStream(ctx, id, io)
	})
}

func (h *Host) containerID(ref *edgeapi.ContainerRef) (string, error) {
	id, err := h.config.Pods.ContainerID(ref.GetPodUid(), ref.GetContainer())
	if err != nil {
		return "", lookupError(err)
	}
	return id, nil
}

// withIO lends the streams of a session to a runtime.
func withIO(ctx context.Context, want streams, s *stream.Stream, run func(context.Context, runtime.IO) error) error {
	streams := runtime.IO{TTY: want.tty}
	if want.stdin {
		streams.Stdin = plainReader{s.Reader(edgeapi.Channel_STDIN)}
	} else {
		closeStdin(s)
	}
	if want.stdout {
		streams.Stdout = plainWriter{s.Writer(edgeapi.Channel_STDOUT)}
	}
	if want.stderr && !want.tty {
		streams.Stderr = plainWriter{s.Writer(edgeapi.Channel_STDERR)}
	}
	ctx, cancel := context.WithCancel(ctx)
	var forward sync.WaitGroup
	defer forward.Wait()
	defer cancel()
	if want.tty {
		sizes := make(chan runtime.TerminalSize)
		streams.Resize = sizes
		forward.Go(func() { forwardSizes(ctx, s.Resizes(), sizes) })
	}
	if err := s.Ready(); err != nil {
		return err
	}
	return run(ctx, streams)
}

func forwardSizes(ctx context.Context, from <-chan *edgeapi.TerminalSize, to chan<- runtime.TerminalSize) {
	defer close(to)
	for {
		select {
		case size, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- runtime.TerminalSize{Width: cells(size.GetWidth()), Height: cells(size.GetHeight())}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// plainReader and plainWriter hide that a stream can do more, so that only this package closes it.
type (
	plainReader struct{ io.Reader }
	plainWriter struct{ io.Writer }
)

// logContainer reads the log file that the runtime writes.
func (h *Host) logContainer(ctx context.Context, ref *edgeapi.ContainerRef, r *edgeapi.Log, s *stream.Stream) error {
	path, id, err := h.config.Pods.ContainerLog(ref.GetPodUid(), ref.GetContainer(), r.GetPrevious())
	if err != nil {
		return lookupError(err)
	}
	// Once the log has begun, who reads it through kube-apiserver is told of no error.
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return failf(metav1.StatusReasonBadRequest, "the log of container %q is not on the device any more", ref.GetContainer())
	}
	// What is not there any more writes no more.
	options := &logs.LogOptions{Follow: r.GetFollow() && !r.GetPrevious() && id != "", Timestamp: r.GetTimestamps()}
	if ns := r.GetSinceNs(); ns > 0 {
		options.Since = time.Unix(0, ns)
	}
	if n := r.GetTailLines(); n >= 0 {
		options.TailLines = &n
	}
	if n := r.GetLimitBytes(); n >= 0 {
		options.LimitBytes = &n
	}
	if err := s.Ready(); err != nil {
		return err
	}
	out := plainWriter{s.Writer(edgeapi.Channel_STDOUT)}
	err = logs.ReadLogs(ctx, path, id, options, h.config.Runtime, out, out)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// lookupError makes a request bad that asks for what a container has not come to yet.
func lookupError(err error) error {
	result := resultOf(err)
	reason := metav1.StatusReason(result.GetReason())
	if reason == metav1.StatusReasonInternalError {
		reason = metav1.StatusReasonBadRequest // not running, not created yet
	}
	return &failure{reason: reason, message: result.GetMessage()}
}
