package gateway

import (
	"testing"

	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/link"
)

// changing is a Directory with one device, which changes while it is looked up for the first time.
type changing struct {
	always
	next    *v1alpha1.EdgeDevice
	changed func()
}

func (c *changing) Get(string, string) (*v1alpha1.EdgeDevice, error) {
	ed := c.ed
	c.ed = c.next
	if f := c.changed; f != nil {
		c.changed = nil
		f()
	}
	return ed, nil
}

// TestRefreshInOrder: when an EdgeDevice changes while the pinger looks at it, what its device is told last is the new one.
func TestRefreshInOrder(t *testing.T) {
	s := newChecked(t, link.MethodGRPC)
	devices := &changing{always: s.gateway.config.Devices.(always)}
	devices.ed.ResourceVersion, devices.ed.Spec.Host.AllowExec = "1", ptr.To(false)
	devices.next = devices.ed.DeepCopy()
	devices.next.ResourceVersion, devices.next.Spec.Host.AllowExec = "2", ptr.To(true)
	told := make(chan struct{})
	devices.changed = func() {
		if s.welcomeMu.TryLock() { // nobody keeps whoever was told of the change from being faster
			s.welcomeMu.Unlock()
			s.refresh()
			close(told)
			return
		}
		go func() {
			defer close(told)
			s.refresh()
		}()
	}
	s.gateway.config.Devices = devices
	var last *edgeapi.Welcome
	s.out.send = func(m *edgeapi.ServerMessage) error {
		last = m.GetWelcome()
		return nil
	}
	s.outUnlocked(func() {
		s.refresh()
		<-told
	})
	if !last.GetHostPolicy().GetAllowExec() {
		t.Errorf("the device was told last: %v", last)
	}
	if s.welcomeVersion != "2" {
		t.Errorf("the gateway believes that it knows version %s", s.welcomeVersion)
	}
}
