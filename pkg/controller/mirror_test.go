package controller

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/staticpod"
	"arhat.dev/aranya/test/framework/eventually"
)

// hashes of static pods.
var (
	hash1 = strings.Repeat("1", 32)
	hash2 = strings.Repeat("2", 32)
)

func staticPod(name, hash string, change ...func(*corev1.Pod)) *corev1.Pod {
	return edgePod(name, "", append(change, func(p *corev1.Pod) {
		if p.UID != "keep" {
			p.UID = types.UID(hash)
		}
		p.Annotations = map[string]string{staticpod.AnnotationHash: hash}
		p.Status = corev1.PodStatus{}
	})...)
}

func (c *cluster) static(s *session, pods ...*corev1.Pod) {
	message := &edgeapi.StaticPods{}
	for _, pod := range pods {
		data, err := pod.Marshal()
		if err != nil {
			c.t.Fatal(err)
		}
		message.Pods = append(message.Pods, &edgeapi.StaticPod{Uid: pod.Annotations[staticpod.AnnotationHash], Pod: data})
	}
	c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_StaticPods{StaticPods: message}})
}

func mirrorHash(p *corev1.Pod) string {
	if p == nil {
		return ""
	}
	return p.Annotations[staticpod.AnnotationMirror]
}

func TestMirrorPods(t *testing.T) {
	ed := edgeDevice("dev")
	c := newCluster(t, time.Hour, ed)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node", func() bool { return c.node("dev") != nil })
	static := staticPod("web-dev", hash1)
	c.static(s, static)
	c.report(s, static, corev1.PodStatus{Phase: corev1.PodRunning})
	eventually.Holds(t, "mirror pod with its status", func() bool {
		p := c.pod("web-dev")
		return mirrorHash(p) == hash1 && p.Status.Phase == corev1.PodRunning
	})
	p := c.pod("web-dev")
	owner := metav1.GetControllerOf(p)
	if owner == nil || owner.Kind != "Node" || owner.UID != c.node("dev").UID || p.Spec.NodeName != "dev" {
		t.Errorf("owner %v, node %q", owner, p.Spec.NodeName)
	}
	if p.Annotations[staticpod.AnnotationHash] != hash1 || p.Annotations[staticpod.AnnotationSource] != "file" {
		t.Errorf("annotations %v", p.Annotations)
	}
	// It is made again when it is deleted, and the device hears of none of that.
	if err := c.kube.CoreV1().Pods("edge").Delete(c.ctx, "web-dev", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "mirror pod made again", func() bool {
		p := c.pod("web-dev")
		return mirrorHash(p) == hash1 && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
	})
	// Another content is another pod.
	c.static(s, staticPod("web-dev", hash2))
	eventually.Holds(t, "mirror pod of the new content", func() bool { return mirrorHash(c.pod("web-dev")) == hash2 })
	// What is not there any more is not shown.
	c.static(s)
	eventually.Holds(t, "mirror pod gone", func() bool { return c.pod("web-dev") == nil })
	for _, d := range s.desired() {
		if len(d.Pods) != 0 {
			t.Errorf("the device is told to hold %v", d.Pods)
		}
	}
	if len(s.runs())+len(s.deletes()) != 0 {
		t.Errorf("the device is told to run %v and to delete %v", s.runs(), s.deletes())
	}
}

// The events of a static pod are its own, as with the kubelet: they are found under its own UID (by "kubectl describe"
// of the mirror pod, too) whether it is shown or not, and by whatever mirror pod.
func TestEventsOfStaticPods(t *testing.T) {
	ed, other := edgeDevice("dev"), edgeDevice("other")
	c := newCluster(t, time.Hour, ed, other)
	c.kube.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		pod := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
		if pod.Name == "hidden-dev" {
			return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errors.New("not here"))
		}
		return false, nil, nil
	})
	s, s2 := c.connect(newSession(ed)), c.connect(newSession(other))
	eventually.Holds(t, "Nodes", func() bool { return c.node("dev") != nil && c.node("other") != nil })
	tell := func(s *session, uid, reason string) {
		c.controllers.Handler().DeviceMessage(s, &edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Event{
			Event: &edgeapi.Event{PodUid: uid, Type: "Normal", Reason: reason, Message: "told"},
		}})
	}
	recorded := func(reason string) (found *corev1.ObjectReference) {
		list, err := c.kube.CoreV1().Events("").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			if list.Items[i].Reason == reason {
				found = &list.Items[i].InvolvedObject
			}
		}
		return found
	}
	shown, hidden := staticPod("shown-dev", hash1), staticPod("hidden-dev", hash2)
	c.static(s, shown, hidden)
	c.report(s, shown, corev1.PodStatus{Phase: corev1.PodRunning})
	eventually.Holds(t, "mirror pod", func() bool { return c.pod("shown-dev") != nil && c.pod("shown-dev").Status.Phase == corev1.PodRunning })
	tell(s2, hash1, "Forged")
	tell(s2, hash2, "Forged")
	tell(s, hash1, "OfShown")
	tell(s, hash2, "OfHidden")
	for reason, want := range map[string]*corev1.Pod{"OfShown": shown, "OfHidden": hidden} {
		eventually.Holds(t, reason, func() bool { return recorded(reason) != nil })
		if got := recorded(reason); got.Kind != "Pod" || got.Namespace != want.Namespace || got.Name != want.Name || got.UID != want.UID {
			t.Errorf("%s is on %+v", reason, got)
		}
	}
	if got := recorded("Forged"); got != nil {
		t.Errorf("a device has told of another's pod: %+v", got)
	}
}

// While a device is away its mirror pods stay; when it is back they are compared.
func TestMirrorPodsOfADeviceThatIsAway(t *testing.T) {
	ed := edgeDevice("dev")
	c := newCluster(t, time.Hour, ed)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node", func() bool { return c.node("dev") != nil })
	c.static(s, staticPod("a-dev", hash1), staticPod("b-dev", hash2))
	eventually.Holds(t, "mirror pods", func() bool { return mirrorHash(c.pod("a-dev")) != "" && mirrorHash(c.pod("b-dev")) != "" })
	uid := c.pod("a-dev").UID
	c.cut(s, "gone")
	again := c.connect(newSession(ed))
	c.static(again, staticPod("a-dev", hash1))
	eventually.Holds(t, "the mirror pod of what was removed meanwhile is gone", func() bool { return c.pod("b-dev") == nil })
	if p := c.pod("a-dev"); mirrorHash(p) != hash1 || p.UID != uid {
		t.Errorf("the other one is %+v", p)
	}
}

// What a device may show is decided here, not there.
func TestMirrorPodsRefused(t *testing.T) {
	ed := edgeDevice("dev")
	taken := edgePod("taken-dev", "elsewhere")
	c := newCluster(t, time.Hour, ed, taken)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node", func() bool { return c.node("dev") != nil })
	secret := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}
	h := func(n string) string { return strings.Repeat(n, 32) }
	c.static(s,
		staticPod("elsewhere-dev", h("a"), func(p *corev1.Pod) { p.Namespace = "kube-system" }),
		staticPod("name-of-another", h("b")),
		staticPod("secret-dev", h("c"), func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{secret} }),
		staticPod("account-dev", h("d"), func(p *corev1.Pod) { p.Spec.ServiceAccountName = "admin" }),
		staticPod("uid-dev", "not-a-hash"),
		staticPod("uids-dev", h("e"), func(p *corev1.Pod) { p.UID = "keep" }),
		staticPod("taken-dev", h("f")),
		staticPod("taken-dev", h("0")),
		staticPod("taken-dev", h("9")),
		staticPod("good-dev", hash1, func(p *corev1.Pod) {
			p.Spec.NodeName = "another"
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: "x", UID: "y"}}
			p.Finalizers = []string{"example.com/keep"}
		}),
	)
	eventually.Holds(t, "the good one", func() bool { return mirrorHash(c.pod("good-dev")) == hash1 })
	good := c.pod("good-dev")
	if good.Spec.NodeName != "dev" || len(good.Finalizers) != 0 || len(good.OwnerReferences) != 1 || good.OwnerReferences[0].Kind != "Node" {
		t.Errorf("the good one: %+v", good)
	}
	list, err := c.kube.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Namespace+"/"+p.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"edge/good-dev", "edge/taken-dev"}) || mirrorHash(c.pod("taken-dev")) != "" {
		t.Errorf("pods %v", names)
	}
	eventually.Holds(t, "events", func() bool {
		reasons := c.events("EdgeDevice", "dev")
		return slices.Contains(reasons, "StaticPodRefused") && slices.Contains(reasons, "FailedCreateMirrorPod")
	})
}

// A mirror pod that nobody's static pod is behind is taken away; so is one that a user has made in order to reach
// another pod by its UID.
func TestForgedMirrorPod(t *testing.T) {
	ed := edgeDevice("dev")
	c := newCluster(t, time.Hour, ed)
	s := c.connect(newSession(ed))
	eventually.Holds(t, "Node", func() bool { return c.node("dev") != nil })
	c.static(s)
	forged := edgePod("forged", "dev", func(p *corev1.Pod) {
		p.Namespace = "tenant"
		p.Annotations = map[string]string{staticpod.AnnotationMirror: hash1}
	})
	if staticpod.UIDOnDevice(forged, "edge") != forged.UID {
		t.Error("it leads to a static pod of another namespace")
	}
	inside := forged.DeepCopy()
	inside.Namespace, inside.Annotations[staticpod.AnnotationMirror] = "edge", "3b9e0f3a-0000-4000-8000-000000000000"
	if staticpod.UIDOnDevice(inside, "edge") != inside.UID {
		t.Error("it leads to a pod that is not static")
	}
	if _, err := c.kube.CoreV1().Pods("tenant").Create(c.ctx, forged, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "it is gone", func() bool {
		_, err := c.kube.CoreV1().Pods("tenant").Get(c.ctx, "forged", metav1.GetOptions{})
		return err != nil
	})
	if len(s.runs()) != 0 {
		t.Errorf("the device is told to run it: %v", s.runs())
	}
}

// showStatic has a device run a static pod, and waits until the controllers have seen its mirror pod.
func (c *cluster) showStatic(s *session, name string) {
	c.t.Helper()
	static := staticPod(name, hash1)
	c.static(s, static)
	c.report(s, static, corev1.PodStatus{Phase: corev1.PodRunning})
	eventually.Holds(c.t, "mirror pod with its status", func() bool {
		p := c.pod(name)
		return mirrorHash(p) == hash1 && p.Status.Phase == corev1.PodRunning
	})
}

// What shows a static pod does not keep a Node that is to go, and is not made again on it.
func TestMirrorPodsOfANodeThatGoes(t *testing.T) {
	for name, goes := range map[string]func(*aranya.EdgeDevice){
		"disabled": func(d *aranya.EdgeDevice) { d.Generation, d.Spec.Node.Disabled = 2, true },
		"deleted":  func(d *aranya.EdgeDevice) { d.DeletionTimestamp = &metav1.Time{Time: time.Now()} },
	} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("dev")
			c := newCluster(t, time.Hour, ed)
			s := c.connect(newSession(ed))
			eventually.Holds(t, "Node", func() bool { return c.node("dev") != nil })
			c.showStatic(s, "web-dev")
			c.change("dev", goes)
			eventually.Holds(t, "Node and mirror pod gone", func() bool { return c.node("dev") == nil && c.pod("web-dev") == nil })
		})
	}
}

// If a Node stays after all, so does what it shows.
func TestMirrorPodsOfANodeThatStays(t *testing.T) {
	ed := edgeDevice("dev")
	c := newCluster(t, time.Hour, ed, edgePod("p", "dev"))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	c.showStatic(s, "web-dev")
	c.change("dev", func(d *aranya.EdgeDevice) { d.Generation, d.Spec.Node.Disabled = 2, true })
	eventually.Holds(t, "mirror pod gone", func() bool { return c.pod("web-dev") == nil })
	c.change("dev", func(d *aranya.EdgeDevice) { d.Generation, d.Spec.Node.Disabled = 3, false })
	eventually.Holds(t, "mirror pod is back", func() bool { return mirrorHash(c.pod("web-dev")) == hash1 })
}
