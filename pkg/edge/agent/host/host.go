// Package host serves the sessions that the cloud side opens on a device: commands, terminals, logs
// and connections, on the device itself or in its containers. It enforces what both policies say,
// the device's own and the EdgeDevice's. How the bytes travel is the business of package stream;
// which containers there are, of package pods.
package host

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/agent/drain"
	"arhat.dev/aranya/pkg/edge/agent/pods"
	"arhat.dev/aranya/pkg/edge/agent/runtime"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// Pods finds the containers that sessions are for. *pods.Manager is one.
type Pods interface {
	ContainerID(podUID, container string) (string, error)
	SandboxID(podUID string) (string, error)
	ContainerLog(podUID, container string, previous bool) (path, containerID string, err error)
}

// Config is what a Host works with. All fields are required unless said otherwise.
type Config struct {
	// Policy is the device's own.
	Policy *config.Policy
	// Shell is what attach to the host runs. Empty: the user's login shell.
	Shell []string
	// AgentLog is the agent's log file, each entry of which begins with a time in RFC 3339 or is JSON that begins
	// with the key "time". Empty if there is none.
	AgentLog string
	Pods     Pods
	Runtime  runtime.Runtime
	// Summary measures the device and its pods.
	Summary func(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error)
}

// Host serves sessions. Its methods may be called concurrently.
type Host struct {
	config Config
	cloud  atomic.Pointer[edgeapi.HostPolicy]
	// patience is how long output of commands is waited for after their end: a process that was left behind may
	// hold it for ever.
	patience time.Duration
}

// New returns a Host that permits nothing on the device itself before SetCloudPolicy.
func New(c Config) *Host {
	return &Host{config: c, patience: drain.Patience}
}

// SetCloudPolicy sets what the cloud side permits; nil permits nothing.
func (h *Host) SetCloudPolicy(p *edgeapi.HostPolicy) { h.cloud.Store(p) }

// Serve runs one session to its end. The context ends with the stream; whatever the session started
// has ended when Serve returns.
func (h *Host) Serve(ctx context.Context, request *edgeapi.OpenStream, s *stream.Stream) {
	err := h.serve(ctx, request, s)
	result := resultOf(err)
	logger := klog.FromContext(ctx)
	if result.Reason != "" && ctx.Err() == nil { // else it was left, which is how logs that are followed end
		logger.V(2).Info("A session ended with an error", "kind", fmt.Sprintf("%T", request.GetRequest()), "reason", result.Reason, "message", result.Message)
	}
	if err := s.Finish(result); err != nil {
		logger.V(4).Info("A session was cut off", "reason", err)
	}
}

func (h *Host) serve(ctx context.Context, request *edgeapi.OpenStream, s *stream.Stream) error {
	switch r := request.GetRequest().(type) {
	case *edgeapi.OpenStream_Exec:
		return h.exec(ctx, r.Exec, s)
	case *edgeapi.OpenStream_Attach:
		return h.attach(ctx, r.Attach, s)
	case *edgeapi.OpenStream_Log:
		return h.log(ctx, r.Log, s)
	case *edgeapi.OpenStream_Dial:
		return h.dial(ctx, r.Dial, s)
	case *edgeapi.OpenStream_Stats:
		return h.stats(ctx, r.Stats, s)
	}
	return failf(metav1.StatusReasonBadRequest, "the agent on this device does not know this kind of session: it is older than the server")
}

// closeStdin drops the input that a session has no use for.
func closeStdin(s *stream.Stream) { _ = s.Reader(edgeapi.Channel_STDIN).Close() }

// failure is an error with the reason that the user's API status will have.
type failure struct {
	reason  metav1.StatusReason
	message string
}

func (f *failure) Error() string { return f.message }

func failf(reason metav1.StatusReason, format string, args ...any) error {
	return &failure{reason: reason, message: fmt.Sprintf(format, args...)}
}

// resultOf describes how a session ended.
func resultOf(err error) *edgeapi.Result {
	var exit utilexec.ExitError
	var f *failure
	switch {
	case err == nil:
		return &edgeapi.Result{}
	case errors.As(err, &exit) && exit.Exited():
		return &edgeapi.Result{ExitCode: int32(exit.ExitStatus())}
	case errors.As(err, &f):
		return &edgeapi.Result{Reason: string(f.reason), Message: f.message}
	}
	reason := metav1.StatusReasonInternalError
	message := err.Error()
	if errors.Is(err, pods.ErrNotFound) {
		reason = metav1.StatusReasonNotFound
	}
	if s, ok := status.FromError(err); ok {
		message = s.Message()
		switch s.Code() {
		case codes.NotFound:
			reason = metav1.StatusReasonNotFound
		case codes.FailedPrecondition, codes.InvalidArgument:
			reason = metav1.StatusReasonBadRequest
		case codes.Unavailable:
			reason = metav1.StatusReasonServiceUnavailable
		}
	}
	return &edgeapi.Result{Reason: string(reason), Message: message}
}
