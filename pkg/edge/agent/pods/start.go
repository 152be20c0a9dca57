package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/clip"
	"arhat.dev/aranya/pkg/edge/agent/images"
	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	podstatus "arhat.dev/aranya/pkg/edge/agent/pods/status"
)

// The reasons why a container was not started, as they appear in its status.
const (
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonCreateConfig = "CreateContainerConfigError"
	reasonCreate       = "CreateContainerError"
	reasonRun          = "RunContainerError"
	reasonPostStart    = "PostStartHookError"
)

// maxReason bounds what a status says about why a container was not started: it may quote the pod, a
// program's output or another server's answer.
const maxReason = 4096

// startPatience is how long a call that starts something may go on after it has been interrupted.
const startPatience = 10 * time.Second

// errPulling says that a container waits for its image.
var errPulling = errors.New("the image is being pulled")

// withoutPulling joins errors, leaving out that an image is being pulled, which is none.
func withoutPulling(errs []error) error {
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, errPulling) })...)
}

// starter starts containers in one sandbox.
type starter struct {
	*pass
	sandbox string
	config  *runtimeapi.PodSandboxConfig
	files   criconfig.Files
}

// start starts a container, or notes why it cannot be and when to try again. An error that the user
// sees in the status is not returned.
func (s *starter) start(ctx context.Context, c *v1.Container, target string) (started bool, err error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if s.waiting(c.Name) || s.inBackOff(c) {
		return false, nil
	}
	ref, message, err := s.ensureImage(ctx, c)
	if errors.Is(err, images.ErrPulling) {
		return false, errPulling
	}
	if err != nil {
		s.refuse(c, err.Error(), message)
		s.containerEvent(c.Name, v1.EventTypeWarning, "Failed", "Error: "+err.Error())
		s.retryImage(c, err)
		return false, nil
	}
	s.noteStart(c)
	instance, reason, err := s.create(ctx, c, ref, target)
	if err == nil {
		s.changed = true
		s.containerEvent(c.Name, v1.EventTypeNormal, "Created", "Container created")
		err = finishing(ctx, func(ctx context.Context) error { return s.w.m.cfg.Runtime.StartContainer(ctx, instance.ID) })
		if err != nil {
			reason = reasonRun
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		message := status.Convert(err).Message()
		s.containerEvent(c.Name, v1.EventTypeWarning, "Failed", "Error: "+message)
		s.refuse(c, reason, message)
		if reason != reasonRun || !s.exited(ctx, instance.ID) {
			s.failed(c.Name, errorPeriod)
		} // else it is started again as after a crash
		return false, fmt.Errorf("start container %s: %w", c.Name, err)
	}
	instance.State, instance.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, s.now()
	s.w.addToView(instance)
	s.containerEvent(c.Name, v1.EventTypeNormal, "Started", "Container started")
	delete(s.w.reasons, c.Name)
	klog.FromContext(ctx).V(2).Info("Started container", "pod", klog.KObj(s.pod), "container", c.Name, "containerID", instance.ID)
	return true, s.postStart(ctx, c, &instance)
}

// exited tells whether the runtime has a container as one that has ended. Not all keep one so that they could
// not start.
func (s *starter) exited(ctx context.Context, id string) bool {
	resp, err := s.w.m.cfg.Runtime.ContainerStatus(ctx, id, false)
	return err == nil && resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
}

// finishing makes a call that starts something. The call goes on for a while after what it is made for has
// been interrupted: cut in the middle, the runtime would report a container that had failed to start.
func finishing(ctx context.Context, call func(context.Context) error) error {
	steady, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(startPatience, cancel)
		<-steady.Done()
		timer.Stop()
	})
	defer stop()
	return call(steady)
}

// refuse notes why a container is waiting.
func (s *starter) refuse(c *v1.Container, reason, message string) {
	s.w.reasons[c.Name] = podstatus.Reason{Reason: reason, Message: clip.String(message, maxReason)}
}

// inBackOff tells whether a container that has ended may not run again yet.
func (s *starter) inBackOff(c *v1.Container) bool {
	instance := s.st.FindExited(c.Name)
	if instance == nil {
		return false
	}
	backOff := s.w.m.backOff
	key := backOffKey(s.pod, c)
	end := s.endOf(instance)
	if !backOff.IsInBackOffSince(key, end) {
		return false
	}
	wait := backOff.Get(key)
	s.later(end.Add(wait).Sub(s.now()))
	s.containerEvent(c.Name, v1.EventTypeWarning, "BackOff",
		fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, podutil.Describe(s.pod)))
	s.refuse(c, reasonCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", wait, c.Name, podutil.Describe(s.pod)))
	return true
}

// noteStart makes the next back-off of a container that is started again longer.
func (s *starter) noteStart(c *v1.Container) {
	if instance := s.st.FindExited(c.Name); instance != nil {
		s.w.m.backOff.Next(backOffKey(s.pod, c), s.endOf(instance))
	}
}

// endOf is when a container ended. If that is in the future, because the clock was set back since, it is
// when it was first seen to have ended: nothing waits until the clock has caught up.
func (s *starter) endOf(instance *state.Container) time.Time {
	now := s.now()
	if !instance.FinishedAt.After(now) {
		return instance.FinishedAt
	}
	known := s.w.futureEnds[instance.Name]
	if known.id != instance.ID || known.seen.After(now) {
		known = futureEnd{instance.ID, now}
		s.w.futureEnds[instance.Name] = known
	}
	return known.seen
}

// futureEnd is when a container that ended in the future was seen to have.
type futureEnd struct {
	id   string
	seen time.Time
}

// backOffKey is another one when the container's spec changes.
func backOffKey(pod *v1.Pod, c *v1.Container) string {
	return string(pod.UID) + "/" + c.Name + "/" + strconv.FormatUint(podutil.HashContainer(c), 16)
}

func (s *starter) ensureImage(ctx context.Context, c *v1.Container) (ref, message string, err error) {
	return s.w.m.puller.Ensure(ctx, images.Request{
		PodUID:        s.w.uid,
		Image:         c.Image,
		Policy:        c.ImagePullPolicy,
		Credentials:   s.d.message.RegistryCredentials,
		Annotations:   s.pod.Annotations,
		SandboxConfig: s.config,
		Event: func(eventType, reason, message string) {
			s.containerEvent(c.Name, eventType, reason, message)
		},
		Done: s.w.wakeUp,
	})
}

// retryImage looks again when the back-off of a pull is over.
func (s *starter) retryImage(c *v1.Container, err error) {
	if errors.Is(err, images.ErrImagePullBackOff) {
		s.later(s.w.m.puller.RetryAfter(s.w.uid, c.Image))
		return
	}
	if errors.Is(err, images.ErrImagePull) {
		s.later(time.Second) // to tell of the back-off
		return
	}
	s.failed(c.Name, errorPeriod)
}

// create makes the container; the reason is for its status if it fails.
func (s *starter) create(ctx context.Context, c *v1.Container, ref, target string) (created state.Container, reason string, err error) {
	user, err := s.imageUser(ctx, ref)
	if err != nil {
		return created, reasonCreateConfig, err
	}
	instance := criconfig.Instance{
		RestartCount: s.restartCount(c),
		ImageRef:     ref,
		User:         user,
		PodIPs:       s.podIPs(),
		Files:        s.files,
	}
	if target != "" {
		targeted := s.st.FindActive(target)
		if targeted == nil {
			return created, reasonCreateConfig, fmt.Errorf("unable to find target container %s", target)
		}
		instance.TargetID = targeted.ID
	}
	config, err := criconfig.Container(s.pod, c, s.node, instance)
	if err != nil {
		return created, reasonCreateConfig, err
	}
	if err := os.MkdirAll(filepath.Join(s.config.LogDirectory, c.Name), 0o755); err != nil {
		return created, reasonCreateConfig, err
	}
	created = state.Container{
		Name: c.Name, SandboxID: s.sandbox, RestartCount: instance.RestartCount, LogPath: filepath.Join(s.config.LogDirectory, config.LogPath),
	}
	s.w.addToView(created)
	err = finishing(ctx, func(ctx context.Context) error {
		created.ID, err = s.w.m.cfg.Runtime.CreateContainer(ctx, s.sandbox, config, s.config)
		return err
	})
	if err == nil {
		s.tellUnenforced(ctx, c, created.ID, config)
		s.w.resize.inForce[created.ID] = inForce{c.Resources, s.pod.Spec.Resources}
	}
	return created, reasonCreate, err
}

// tellUnenforced says what the runtime has taken from the configuration without acting on it.
func (s *starter) tellUnenforced(ctx context.Context, c *v1.Container, id string, config *runtimeapi.ContainerConfig) {
	var names []string
	if r, ok := s.w.m.cfg.Runtime.(interface {
		Unenforced(*runtimeapi.ContainerConfig, *runtimeapi.PodSandboxConfig) []string
	}); ok {
		names = r.Unenforced(config, s.config)
	}
	if config.StopSignal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT { // runtimes of before CRI had it leave it out
		resp, err := s.w.m.cfg.Runtime.ContainerStatus(ctx, id, false)
		if err == nil && resp.GetStatus().GetStopSignal() != config.StopSignal {
			names = append(names, "lifecycle.stopSignal")
		}
	}
	if len(names) > 0 {
		s.containerEvent(c.Name, v1.EventTypeWarning, "NotEnforced", fmt.Sprintf("The runtime %s of this device does not enforce %s", s.runtimeName, strings.Join(names, ", ")))
	}
}

func (s *starter) imageUser(ctx context.Context, ref string) (criconfig.ImageUser, error) {
	resp, err := s.w.m.cfg.Runtime.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: ref}, false)
	if err != nil {
		return criconfig.ImageUser{}, err
	}
	image := resp.GetImage()
	user := criconfig.ImageUser{Name: image.GetUsername()}
	if uid := image.GetUid(); uid != nil {
		user.UID = &uid.Value
	} else if image != nil && user.Name == "" {
		root := int64(0)
		user.UID = &root
	}
	return user, nil
}

// restartCount is one more than that of the instance before. If the runtime has lost that, as after a
// reboot with its state on a tmpfs, or knows older ones only, the status and the logs tell.
func (s *starter) restartCount(c *v1.Container) int {
	count := s.reportedRestarts(c.Name)
	if before := s.st.Find(c.Name); before != nil {
		count = max(count, before.RestartCount)
	}
	entries, _ := os.ReadDir(filepath.Join(s.config.LogDirectory, c.Name))
	for _, entry := range entries {
		name, _, _ := strings.Cut(entry.Name(), ".")
		if n, err := strconv.Atoi(name); err == nil {
			count = max(count, n)
		}
	}
	return count + 1
}

// reportedRestarts is the restart count of the last instance of a container by the pod's status; -1 if
// that knows of none.
func (s *starter) reportedRestarts(name string) int {
	old := s.w.oldStatus(s.pod)
	for _, statuses := range [][]v1.ContainerStatus{old.InitContainerStatuses, old.ContainerStatuses} {
		for i := range statuses {
			cs := &statuses[i]
			last := cs.LastTerminationState.Terminated
			switch {
			case cs.Name != name:
			case cs.State.Running != nil, cs.State.Terminated != nil:
				return int(cs.RestartCount)
			case last == nil:
				return -1
			case last.ContainerID == "": // it was lost, and the start to come is counted already
				return int(cs.RestartCount) - 1
			default:
				return int(cs.RestartCount)
			}
		}
	}
	return -1
}
