package device

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// deviceHandler notices changes of EdgeDevices, and tells of certificates.
func (c *Controller) deviceHandler() cache.ResourceEventHandler {
	notice := func(object any) {
		if ed, ok := object.(*aranya.EdgeDevice); ok {
			c.queue.Add(types.NamespacedName{Namespace: ed.Namespace, Name: ed.Name})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: notice,
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*aranya.EdgeDevice)
			ed, ok2 := after.(*aranya.EdgeDevice)
			if ok1 && ok2 && old.UID == ed.UID {
				c.tellCertificate(ed, old.Status.Certificate, ed.Status.Certificate)
			}
			if !ok2 || !c.wrote(ed) {
				notice(after)
			}
		},
		DeleteFunc: func(object any) { notice(queue.Deleted(object)) },
	}
}

// tellCertificate records an event when a certificate was issued.
func (c *Controller) tellCertificate(ed *aranya.EdgeDevice, old, now *aranya.CertificateStatus) {
	const format = "The device's agent %s; the certificate is valid until %s"
	switch {
	case now == nil || apiequality.Semantic.DeepEqual(old, now):
	case old == nil:
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, "Enrolled", format, "enrolled", now.NotAfter.UTC().Format("2006-01-02 15:04 MST"))
	case old.PublicKeySHA256 != now.PublicKeySHA256:
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, "Enrolled", format, "enrolled anew with another key, which shuts the former one out", now.NotAfter.UTC().Format("2006-01-02 15:04 MST"))
	default:
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeNormal, "CertificateRenewed", format, "renewed its certificate", now.NotAfter.UTC().Format("2006-01-02 15:04 MST"))
	}
}

// IdentityInUse records an event about two machines that use the identity of one device. The same two give the same
// event, whichever has taken the link this time.
func (c *Controller) IdentityInUse(device gateway.Device, one, other gateway.Machine) {
	machines := []string{describe(one), describe(other)}
	slices.Sort(machines)
	c.config.Events.Device(device, corev1.EventTypeWarning, "IdentityInUse",
		"Two machines use the identity of this device and cut off each other's link: %s, and %s. One has a copy of the other's state directory. "+
			"Stop arhat on the one that is not to be this device, and remove its pods and that directory there. If you do not know it, enrol this device anew, "+
			"which shuts the other one out: \"kubectl edge token %s -n %s\", and \"arhat join\" with that token on the right machine",
		machines[0], machines[1], device.Name, device.Namespace)
}

// Refused records an event about a machine whose identity is refused, on the EdgeDevice that it would be. If that was
// deleted there is nobody to be told.
func (c *Controller) Refused(device gateway.Device, address, reason string) {
	object, ok, err := c.config.Devices.GetIndexer().GetByKey(cache.NewObjectName(device.Namespace, device.Name).String())
	if err != nil || !ok {
		return
	}
	if ed, ok := object.(*aranya.EdgeDevice); ok && ed.DeletionTimestamp == nil {
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, "DeviceRefused",
			"Refused the machine at %s as this device: %s", host(address), reason)
	}
}

func describe(m gateway.Machine) string {
	return fmt.Sprintf("one at %s (boot ID %s)", host(m.Address), m.BootID)
}

// nodeHandler notices changes of Nodes that the condition NodeReady depends on.
func (c *Controller) nodeHandler() cache.ResourceEventHandler {
	notice := func(object any) {
		if n, ok := object.(*corev1.Node); ok {
			for _, key := range node.DevicesNamed(c.config.Devices.GetIndexer(), n.Name) {
				c.queue.AddAfter(key, settle)
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: notice,
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*corev1.Node)
			n, ok2 := after.(*corev1.Node)
			if ok1 && ok2 && (old.UID != n.UID || old.Annotations[aranya.AnnotationUID] != n.Annotations[aranya.AnnotationUID] ||
				node.Left(old) != node.Left(n) || !apiequality.Semantic.DeepEqual(node.Ready(old), node.Ready(n))) {
				notice(after)
			}
		},
		DeleteFunc: func(object any) { notice(queue.Deleted(object)) },
	}
}
