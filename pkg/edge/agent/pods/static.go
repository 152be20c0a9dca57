package pods

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

// SetStatic replaces the static pods: those that the device runs by itself, whatever the cloud wants. Their
// UIDs change with their content; one that is known stays as it was seen first. One that is not among them any
// more goes, also if it ran before the agent's start; one of the same name takes its place when it is gone.
func (m *Manager) SetStatic(pods []*v1.Pod) {
	m.mu.Lock()
	static := map[string]*desired{}
	for _, pod := range pods {
		if d := m.static[string(pod.UID)]; d != nil {
			static[string(pod.UID)] = d
			continue
		}
		data, err := pod.Marshal()
		if err == nil {
			var d *desired
			if d, err = newDesired(&edgeapi.RunPod{Uid: string(pod.UID), Pod: data, Static: true}); err == nil {
				static[string(pod.UID)] = d
			}
		}
		if err != nil { // cannot happen: package static has looked at it
			klog.Background().Error(err, "A static pod cannot be used", "pod", klog.KObj(pod))
		}
	}
	m.static = static
	var gone []*worker
	for uid, w := range m.workers {
		if w.isStatic() && static[uid] == nil {
			gone = append(gone, w)
		}
	}
	m.startStatic()
	m.mu.Unlock()
	for _, w := range gone {
		w.remove(nil)
	}
}

// startStatic starts the static pods that are not there yet and whose names are free, and tells the Sink which
// there are. Called with the lock held.
func (m *Manager) startStatic() {
	if m.static == nil {
		return
	}
	taken := map[string]bool{}
	for _, w := range m.workers {
		if name := w.name(); name != "" {
			taken[name] = true
		}
	}
	for uid, d := range m.static {
		if m.workers[uid] != nil || taken[fullName(d.pod)] {
			continue
		}
		if len(m.workers) >= maxPods {
			m.events.event(uid, "", v1.EventTypeWarning, "OutOfpods", fmt.Sprintf("the device already holds %d pods", maxPods))
			continue
		}
		w := m.newWorker(uid)
		m.workers[uid] = w
		w.setDesired(d)
		w.claim()
		m.start(w)
	}
	m.cfg.Sink.StaticPods(m.reportStatic())
}

// reportStatic is what the cloud is told of the static pods: as many as fit into one message. Called with the
// lock held.
func (m *Manager) reportStatic() *edgeapi.StaticPods {
	var static []*desired
	for _, w := range m.workers {
		if d := w.current(); d != nil && d.message.Static {
			static = append(static, d)
		}
	}
	slices.SortFunc(static, func(a, b *desired) int { return strings.Compare(a.message.Uid, b.message.Uid) })
	message, size := &edgeapi.StaticPods{}, 0
	for _, d := range static {
		pod := &edgeapi.StaticPod{Uid: d.message.Uid, Pod: d.message.Pod}
		one := proto.Size(&edgeapi.StaticPods{Pods: []*edgeapi.StaticPod{pod}})
		if size+one > staticpod.MaxTotal {
			m.DeviceEvent(v1.EventTypeWarning, "FailedCreateMirrorPod", fmt.Sprintf(
				"Static pod %s cannot be shown: the static pods that are shown have at most %d bytes together", d.pod.Name, staticpod.MaxTotal))
			continue
		}
		size += one
		message.Pods = append(message.Pods, pod)
	}
	return message
}

// current is what is wanted of the pod now, nil if only its remains are known.
func (w *worker) current() *desired {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.desired
}

// name is the pod's full name, empty if it is not known.
func (w *worker) name() string {
	if d := w.current(); d != nil {
		return fullName(d.pod)
	}
	return ""
}

func fullName(pod *v1.Pod) string { return pod.Namespace + "/" + pod.Name }
