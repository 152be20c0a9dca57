package pods

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/pods/status"
	"arhat.dev/aranya/pkg/edge/agent/store"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// desired is what the cloud wants of one pod. It is never modified: a change makes a new one.
type desired struct {
	message *edgeapi.RunPod
	pod     *v1.Pod
	volumes map[string]*edgeapi.VolumeData
}

func newDesired(message *edgeapi.RunPod) (*desired, error) {
	pod := &v1.Pod{}
	if err := pod.Unmarshal(message.Pod); err != nil {
		return nil, fmt.Errorf("pod %s: %w", message.Uid, err)
	}
	if string(pod.UID) != message.Uid {
		return nil, fmt.Errorf("pod %s has the UID %q", message.Uid, pod.UID)
	}
	if err := check(pod); err != nil {
		return nil, fmt.Errorf("pod %s: %w", message.Uid, err)
	}
	d := &desired{message: message, pod: pod, volumes: map[string]*edgeapi.VolumeData{}}
	for _, v := range message.Volumes {
		d.volumes[v.Name] = v
	}
	return d, nil
}

// withVolumes returns the same pod with other content in the volumes that the update names.
func (d *desired) withVolumes(u *edgeapi.UpdateVolumes) *desired {
	volumes := maps.Clone(d.volumes)
	for _, v := range u.Volumes {
		volumes[v.Name] = v
	}
	return d.holding(volumes, u.VolumesDigest)
}

// keeps says whether the message has left out what the device has of the pod.
func (d *desired) keeps() bool { return len(d.message.KeptVolumes) > 0 || d.keepsHandler() }

// keepsHandler says whether the pod's RuntimeClass is gone: its handler is then the one that the device has.
func (d *desired) keepsHandler() bool {
	name := d.pod.Spec.RuntimeClassName
	return name != nil && *name == ""
}

// keeping returns the same pod with what the message has left out because former, which may be nil, has it. The
// error says what it has not.
func (d *desired) keeping(former *desired) (*desired, error) {
	volumes := maps.Clone(d.volumes)
	for _, name := range d.message.KeptVolumes {
		if former == nil || former.volumes[name] == nil {
			return nil, fmt.Errorf("the device does not hold the volume %q of it", name)
		}
		volumes[name] = former.volumes[name]
	}
	kept := d.holding(volumes, d.message.VolumesDigest)
	if !d.keepsHandler() {
		return kept, nil
	}
	if former == nil {
		return nil, errors.New("the device does not hold its runtime handler")
	}
	kept.pod = d.pod.DeepCopy()
	kept.pod.Spec.RuntimeClassName = former.pod.Spec.RuntimeClassName
	var err error
	if kept.message.Pod, err = kept.pod.Marshal(); err != nil {
		return nil, fmt.Errorf("encode pod: %w", err)
	}
	return kept, nil
}

// holding returns the same pod with these volumes and no others.
func (d *desired) holding(volumes map[string]*edgeapi.VolumeData, digest string) *desired {
	return &desired{pod: d.pod, volumes: volumes, message: &edgeapi.RunPod{
		Uid: d.message.Uid, Pod: d.message.Pod, Digest: d.message.Digest, VolumesDigest: digest,
		RegistryCredentials: d.message.RegistryCredentials, Static: d.message.Static,
		Volumes: slices.Collect(maps.Values(volumes)),
	}}
}

// Desired removes every pod that is not listed. The cluster does not know those any more, and may have given
// their room to others.
func (m *Manager) Desired(d *edgeapi.DesiredPods) {
	listed := make(map[string]bool, len(d.Pods))
	for _, p := range d.Pods {
		listed[p.Uid] = true
	}
	m.mu.Lock()
	var gone []*worker
	for uid, w := range m.workers {
		if !listed[uid] && !w.isStatic() {
			gone = append(gone, w)
		}
	}
	m.relist.setDesired(listed)
	m.mu.Unlock()
	for _, w := range gone {
		w.remove(nil)
	}
	for _, w := range gone { // when each knows that it has to go, and asks for nothing more
		m.release(w.uid)
	}
	m.relist.wake()
}

// RunPod adds a pod or changes it. What cannot be used is reported as an event of the pod.
func (m *Manager) RunPod(r *edgeapi.RunPod) {
	d, err := newDesired(r)
	if err == nil && (!store.ValidUID(r.Uid) || r.Static) {
		err = fmt.Errorf("pod UID %q is not usable as a file name, or is that of a static pod", r.Uid)
	}
	if err != nil {
		m.refuse(r, err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.relist.addDesired(r.Uid)
	w := m.workers[r.Uid]
	if w != nil && w.isStatic() {
		klog.Background().Info("Ignoring a pod from the cloud: the device has a static one of that UID", "podUID", r.Uid)
		return
	}
	if d.keeps() {
		m.runKeeping(w, d)
		return
	}
	if w == nil {
		if len(m.workers) >= maxPods {
			m.events.event(r.Uid, "", v1.EventTypeWarning, "OutOfpods", fmt.Sprintf("the device already holds %d pods", maxPods))
			return
		}
		w = m.newWorker(r.Uid)
		m.workers[r.Uid] = w
		w.setDesired(d)
		w.claim() // in the order of arrival
		m.start(w)
		return
	}
	w.setDesired(d)
}

// runKeeping changes a pod of which the device holds volumes or the runtime handler. If it does not, it has just removed
// the pod, which the server will hear, and then send all of it.
func (m *Manager) runKeeping(w *worker, d *desired) {
	err := errors.New("the device does not hold it")
	if w != nil {
		err = w.setKeeping(d)
	}
	if err != nil {
		klog.Background().Info("Ignoring a change of a pod", "pod", klog.KObj(d.pod), "podUID", d.pod.UID, "reason", err.Error())
	}
}

// reasonInvalid is in the status of a pod that makes no sense.
const reasonInvalid = "FailedValidation"

// refuse tells that a pod from the cloud cannot be used. It does not become a pod of the device.
func (m *Manager) refuse(r *edgeapi.RunPod, err error) {
	klog.Background().Error(err, "A pod from the cloud cannot be used", "podUID", r.Uid)
	m.events.event(r.Uid, "", v1.EventTypeWarning, reasonInvalid, err.Error())
	pod := &v1.Pod{}
	if pod.Unmarshal(r.Pod) != nil {
		pod = &v1.Pod{}
	}
	rejected, encodeErr := status.Rejected(pod, reasonInvalid, err.Error(), m.nodeConfig().HostIPs, m.cfg.Clock.Now()).Marshal()
	if encodeErr != nil {
		return
	}
	m.cfg.Sink.PodStatus(&edgeapi.PodStatus{Uid: r.Uid, Namespace: pod.Namespace, Name: pod.Name, Status: rejected})
}

// UpdateVolumes replaces the content of volumes of a pod.
func (m *Manager) UpdateVolumes(u *edgeapi.UpdateVolumes) {
	if w := m.worker(u.Uid); w != nil && !w.isStatic() {
		w.updateVolumes(u)
	}
}

// DeletePod stops and removes a pod. Sink.PodRemoved is called when nothing of it is left; for a pod
// that is not known, when the runtime has confirmed that it has nothing of it.
func (m *Manager) DeletePod(d *edgeapi.DeletePod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deletePodLocked(d)
}

func (m *Manager) deletePodLocked(d *edgeapi.DeletePod) {
	if !store.ValidUID(d.Uid) {
		m.cfg.Sink.PodRemoved(&edgeapi.PodRemoved{Uid: d.Uid, Namespace: d.Namespace, Name: d.Name})
		return
	}
	w := m.workers[d.Uid]
	if w != nil && w.isStatic() {
		return // only the device itself ends it
	}
	if w == nil {
		w = m.newWorker(d.Uid)
		m.workers[d.Uid] = w
		w.remove(d)
		m.start(w)
		return
	}
	w.remove(d)
	if d.GracePeriodSeconds == 0 { // as with one that Desired does not list
		m.releaseLocked(d.Uid)
	}
}

// SetNode replaces what is known of the device. Pods' statuses and downward API volumes follow.
func (m *Manager) SetNode(info NodeInfo) {
	m.mu.Lock()
	changed := !reflect.DeepEqual(m.node, info)
	m.node = info
	m.mu.Unlock()
	m.ledger.SetAllocatable(info.Allocatable)
	if changed {
		for _, w := range m.all() {
			w.wakeUp()
		}
	}
}
