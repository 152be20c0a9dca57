package agent

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/static"
)

// newStatic returns the folder of static pods, nil if there is none. Their Node has the device's name, which
// is known before there was ever a link.
func (a *Agent) newStatic() *static.Source {
	if a.config.StaticPodPath == "" {
		return nil
	}
	device := a.uplink.Device()
	return static.New(static.Config{
		Dir: a.config.StaticPodPath, Namespace: device.Namespace, NodeName: device.Name,
		Pods: a.pods.SetStatic, Refused: a.refuseManifest,
	})
}

// readStatic reads the folder for the first time, so that what was taken out of it while there was no agent
// is not started again. Without a folder there are no static pods any more.
func (a *Agent) readStatic(ctx context.Context) {
	if a.static == nil {
		a.pods.SetStatic(nil)
		return
	}
	if err := a.static.Read(); err != nil {
		klog.FromContext(ctx).Error(err, "The folder of static pods cannot be read (staticPodPath in arhat.yaml): those that ran before go on")
	}
}

// refuseManifest tells of a file that is no usable pod.
func (a *Agent) refuseManifest(file string, err error) {
	klog.Background().Error(err, "A manifest in the folder of static pods cannot be used", "file", file)
	a.pods.DeviceEvent(v1.EventTypeWarning, "InvalidStaticPod", "static pod manifest "+file+": "+err.Error())
}
