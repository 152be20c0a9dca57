package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"arhat.dev/aranya/hack/cluster/supervisor"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/containerd"
)

var edgeDevices = schema.GroupVersionResource{Group: v1alpha1.GroupName, Version: "v1alpha1", Resource: "edgedevices"}

// parallelDevices is how many devices are started at the same time.
const parallelDevices = 4

// startDevices starts the devices that are wanted and not there, and waits until all are online.
func (c *Cluster) startDevices(ctx context.Context, o *Options) error {
	if err := c.ensureNamespace(ctx); err != nil {
		return err
	}
	if c.state.Link == LinkMQTT {
		if err := c.BrokerSecrets(ctx); err != nil {
			return err
		}
	}
	var missing []int
	for i := 1; i <= o.Devices; i++ {
		if c.state.device(deviceName(i)) == nil {
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	what := fmt.Sprintf("start %d device(s), runtime %s", len(missing), c.state.Runtime)
	return c.step(what, func() error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(parallelDevices)
		for _, i := range missing {
			group.Go(func() error { return c.AddDevice(ctx, i, o.Images...) })
		}
		return group.Wait()
	})
}

func deviceName(index int) string { return fmt.Sprintf("device-%d", index) }

func (c *Cluster) ensureNamespace(ctx context.Context) error {
	client, err := c.clientset()
	if err != nil {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return Poll(ctx, startTimeout, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(Namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// AddDevice creates the EdgeDevice device-<index> if there is none, starts the machine that stands for
// it with its agent, and waits until it is online. Images are for its container runtime.
func (c *Cluster) AddDevice(ctx context.Context, index int, images ...containerd.Image) error {
	return c.AddDeviceOver(ctx, index, "", images...)
}

// AddDeviceOver is AddDevice for a device with another link than the cluster's; empty for the same. The
// caller sees to it that a broker admits it.
func (c *Cluster) AddDeviceOver(ctx context.Context, index int, link string, images ...containerd.Image) error {
	d := Device{Name: deviceName(index), Index: index, Link: link}
	if c.state.Network != nil {
		c.state.Network.nameDevice(c.state.ID, &d)
	}
	for _, dir := range []string{"state", "logs", "manifests"} {
		if err := os.MkdirAll(c.devicePath(d.Name, dir), 0o700); err != nil {
			return err
		}
	}
	if err := c.update(func(s *State) { s.Devices = append(s.Devices, d) }); err != nil {
		return err
	}
	if c.state.Link == LinkMQTT {
		if err := c.admitToBroker(ctx); err != nil {
			return err
		}
	}
	if err := c.CreateEdgeDevice(ctx, d.Name); err != nil {
		return err
	}
	if err := c.startMachine(ctx, &d); err != nil {
		return fmt.Errorf("device %s: %w", d.Name, err)
	}
	endpoint := RuntimeProcess
	if c.state.Runtime == RuntimeContainerd {
		var err error
		if endpoint, err = c.startContainerd(ctx, &d, images); err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
	}
	if err := c.startAgent(ctx, &d, endpoint); err != nil {
		return fmt.Errorf("device %s: %w", d.Name, err)
	}
	return c.WaitOnline(ctx, d.Name)
}

// ContainerdDir is where the containerd of a device keeps everything.
func (c *Cluster) ContainerdDir(name string) string { return c.devicePath(name, "containerd") }

func (c *Cluster) devicePath(name string, elem ...string) string {
	return c.path(append([]string{"devices", name}, elem...)...)
}

// CreateEdgeDevice creates an EdgeDevice with all defaults but those of the cluster's options, if there
// is none of that name.
func (c *Cluster) CreateEdgeDevice(ctx context.Context, name string) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	spec := map[string]any{"connectivity": c.connectivity(c.linkOf(name))}
	if taint := c.State().NamespaceTaint; taint != "" {
		spec["node"] = map[string]any{"namespaceTaint": taint}
	}
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": edgeDevices.GroupVersion().String(),
		"kind":       "EdgeDevice",
		"metadata":   map[string]any{"name": name},
		"spec":       spec,
	}}
	if _, err := client.Resource(edgeDevices).Namespace(Namespace).Create(ctx, obj, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create EdgeDevice %s: %w", name, err)
	}
	return nil
}

// Token creates an enrolment token for an EdgeDevice.
func (c *Cluster) Token(ctx context.Context, name string) (string, error) {
	client, err := c.clientset()
	if err != nil {
		return "", err
	}
	path := fmt.Sprintf("/apis/%s/namespaces/%s/edgedevices/%s/token", edgeDevices.GroupVersion(), Namespace, name)
	body := fmt.Sprintf(`{"apiVersion":%q,"kind":"EnrollmentToken"}`, edgeDevices.GroupVersion())
	data, err := client.Discovery().RESTClient().Post().AbsPath(path).
		SetHeader("Content-Type", "application/json").Body([]byte(body)).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("create an enrolment token for %s: %w", name, err)
	}
	var token v1alpha1.EnrollmentToken
	if err := json.Unmarshal(data, &token); err != nil {
		return "", err
	}
	if token.Status.Token == "" {
		return "", errors.New("aranya returned no enrolment token")
	}
	return token.Status.Token, nil
}

// startMachine launches the supervisor of a device: as root a machine of its own, else a group of
// processes.
func (c *Cluster) startMachine(ctx context.Context, d *Device) error {
	if c.state.Network == nil {
		return c.launch(ctx, d.Name, nil)
	}
	isolation := &supervisor.Isolation{Hostname: d.Name, Binds: map[string]string{}}
	files := map[string]string{"/etc/hostname": d.Name, "/etc/machine-id": machineID(c.state.ID, d.Index)}
	for target, content := range files {
		source := c.devicePath(d.Name, filepath.Base(target))
		if err := os.WriteFile(source, []byte(content+"\n"), 0o644); err != nil {
			return err
		}
		if _, err := os.Stat(target); err == nil {
			isolation.Binds[target] = source
		}
	}
	if err := c.newBoot(d, isolation); err != nil {
		return err
	}
	if c.state.Runtime == RuntimeContainerd {
		if err := c.bindCNIDir(d, isolation); err != nil {
			return err
		}
	}
	if err := c.launch(ctx, d.Name, isolation); err != nil {
		return err
	}
	return c.state.Network.connect(d, c.supervisor(d.Name).PID, c.devicePort(c.linkOf(d.Name)))
}

// cniDir is where container runtimes keep what they know of CNI networks. They cannot be told another
// place.
const cniDir = "/var/lib/cni"

// bindCNIDir gives the machine a directory of its own in that place.
func (c *Cluster) bindCNIDir(d *Device, isolation *supervisor.Isolation) error {
	source := c.devicePath(d.Name, "cni")
	if err := os.MkdirAll(source, 0o700); err != nil {
		return err
	}
	isolation.Binds[cniDir] = source
	if _, err := os.Stat(cniDir); err == nil {
		return nil
	}
	if err := os.MkdirAll(cniDir, 0o755); err != nil {
		return err
	}
	return c.update(func(s *State) { s.MadeCNIDir = true })
}

func (c *Cluster) supervisor(group string) supervisor.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Supervisors[group]
}

func machineID(id string, index int) string { return fmt.Sprintf("%s%026x", id, index) }

// startContainerd runs a containerd on the device and returns its CRI endpoint.
func (c *Cluster) startContainerd(ctx context.Context, d *Device, images []containerd.Image) (string, error) {
	server, err := c.launchContainerd(ctx, d)
	if err != nil {
		return "", err
	}
	if err := waitService(ctx, c.Device(d.Name), ServiceContainerd, server.WaitReady); err != nil {
		return "", err
	}
	// The place where users look for it.
	if err := os.Symlink("containerd/containerd.sock", c.devicePath(d.Name, "containerd.sock")); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return server.Endpoint(), server.ImportAll(ctx, images...)
}

// launchContainerd has the device's supervisor run a containerd.
func (c *Cluster) launchContainerd(ctx context.Context, d *Device) (*containerd.Server, error) {
	dir := c.devicePath(d.Name, "containerd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	server, argv, err := containerd.Prepare(containerd.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	argv[0] = "/usr/bin/" + argv[0]
	return server, c.Device(d.Name).Start(ctx, supervisor.Service{
		Name: ServiceContainerd, Argv: argv, Env: c.serviceEnv(), Dir: dir, Log: c.devicePath(d.Name, "logs", "containerd.log"),
	})
}

// startAgent writes the agent's configuration and starts it with an enrolment token.
func (c *Cluster) startAgent(ctx context.Context, d *Device, endpoint string) error {
	config := map[string]any{
		"apiVersion": "arhat.dev/v1alpha1",
		"kind":       "ArhatConfiguration",
		"stateDir":   c.devicePath(d.Name, "state"),
		"logDir":     c.devicePath(d.Name, "logs", "pods"),
		"runtime":    endpoint,
		// Manifests that are put there are run by the device itself.
		"staticPodPath": c.devicePath(d.Name, "manifests"),
		"logging":       map[string]any{"file": map[string]any{"path": c.devicePath(d.Name, "logs", "arhat.log")}},
		"policy":        map[string]any{"hostPaths": []string{"/"}, "privilegedPods": true, "hostNetwork": true},
		// The disk is this machine's, not the device's: that it is 85 % full says nothing of what is tried here.
		"evictionHard": map[string]any{"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi", "pid.available": "10%"},
	}
	if c.state.Network != nil {
		config["nodeIP"] = d.Address.String()
	} else {
		config["nodeIP"] = loopback
	}
	link, err := c.LinkConfig(ctx, d.Name, c.devicePath(d.Name))
	if err != nil {
		return err
	}
	maps.Copy(config, link)
	data, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.agentConfig(d.Name), data, 0o600); err != nil {
		return err
	}
	token, err := c.Token(ctx, d.Name)
	if err != nil {
		return err
	}
	return c.launchAgent(ctx, d, "join", "--server="+c.serverAddress(c.linkOf(d.Name)), "--token="+token)
}

func (c *Cluster) agentConfig(device string) string { return c.devicePath(device, "arhat.yaml") }

// launchAgent has the device's supervisor run the agent.
func (c *Cluster) launchAgent(ctx context.Context, d *Device, command string, args ...string) error {
	return c.Device(d.Name).Start(ctx, supervisor.Service{
		Name: ServiceArhat,
		Argv: append([]string{c.program("arhat"), command, "--config=" + c.agentConfig(d.Name)}, args...),
		Env:  c.serviceEnv(), Dir: c.devicePath(d.Name), Log: c.devicePath(d.Name, "logs", "arhat.out"),
		StopTimeout: 15 * time.Second,
	})
}

// WaitOnline waits until a device is online and its Node is ready.
func (c *Cluster) WaitOnline(ctx context.Context, name string) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	devices, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	client, err := c.clientset()
	if err != nil {
		return err
	}
	return waitService(ctx, c.Device(name), ServiceArhat, func(ctx context.Context) error {
		obj, err := devices.Resource(edgeDevices).Namespace(Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase"); phase != string(v1alpha1.EdgeDeviceOnline) {
			return fmt.Errorf("EdgeDevice %s is %s", name, phase)
		}
		if node, _, _ := unstructured.NestedString(obj.Object, "status", "nodeName"); node == "" {
			return fmt.Errorf("EdgeDevice %s does not tell its Node yet", name)
		}
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("node %s is not ready", name)
	})
}
