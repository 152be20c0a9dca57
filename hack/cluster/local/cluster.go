package local

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"arhat.dev/aranya/hack/cluster/supervisor"
)

// Cluster is a cluster that is up. Its methods may be used concurrently.
type Cluster struct {
	Dir string
	out io.Writer

	mu    sync.Mutex // guards state
	state *State

	brokerMu sync.Mutex // guards the broker's password file
}

// Open returns the cluster in dir, which must be up.
func Open(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	state, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	return &Cluster{Dir: dir, out: io.Discard, state: state}, nil
}

// Up says whether the cluster runs.
func (c *Cluster) Up() bool { return c.supervisor(Cloud).Alive() }

// State returns a copy of what is remembered of the cluster.
func (c *Cluster) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.state
	s.Devices = append([]Device(nil), s.Devices...)
	return s
}

// update changes the state and saves it.
func (c *Cluster) update(change func(*State)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.state)
	return c.state.save(c.Dir)
}

// path returns a path below the cluster's directory.
func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// Kubeconfig is the administrator's kubeconfig file.
func (c *Cluster) Kubeconfig() string { return c.path(kubeconfigFile) }

// RESTConfig returns the administrator's client configuration.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
}

func (c *Cluster) clientset() (*kubernetes.Clientset, error) {
	config, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	return kubernetes.NewForConfig(config)
}

// Environ is the environment in which kubectl finds the cluster and its plugin.
func (c *Cluster) Environ() []string {
	env := []string{
		"KUBECONFIG=" + c.Kubeconfig(),
		"PATH=" + c.path("bin") + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + c.path("home"), // caches of API discovery go with the cluster
	}
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "TERM", "LANG", "LC_ALL", "TMPDIR", "USER":
			env = append(env, kv)
		}
	}
	return env
}

// Kubectl returns a command that runs the stock kubectl as administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path("bin", "kubectl"), args...)
	cmd.Env = c.Environ()
	return cmd
}

// Names of the services of the cloud side, as Cloud knows them.
const (
	ServiceEtcd              = "etcd"
	ServiceAPIServer         = "kube-apiserver"
	ServiceControllerManager = "kube-controller-manager"
	ServiceScheduler         = "kube-scheduler"
	ServiceMetricsServer     = "metrics-server"
	ServiceAranya            = "aranya-apiserver"
	ServiceBroker            = "mosquitto"
	// Services of a device.
	ServiceArhat      = "arhat"
	ServiceContainerd = "containerd"
)

// Cloud returns the supervisor of the cloud side.
func (c *Cluster) Cloud() *supervisor.Client { return supervisor.NewClient(c.socket(Cloud)) }

// Device returns the supervisor that stands for a device.
func (c *Cluster) Device(name string) *supervisor.Client { return supervisor.NewClient(c.socket(name)) }

func (c *Cluster) socket(group string) string { return c.path(groupFile, group+".sock") }

// PID returns the id of a service's process as this process sees it. The group is "cloud" or a
// device's name.
func (c *Cluster) PID(ctx context.Context, group, service string) (int, error) {
	status, err := supervisor.NewClient(c.socket(group)).Status(ctx, service)
	if err != nil {
		return 0, err
	}
	if status.PID == 0 {
		return 0, fmt.Errorf("%s of %s is not running (%s)", service, group, status.LastExit)
	}
	c.mu.Lock()
	root := c.state.Supervisors[group]
	c.mu.Unlock()
	return supervisor.HostPID(root.PID, status.PID)
}

// step reports progress and how long the step took.
func (c *Cluster) step(what string, do func() error) error {
	begin := time.Now()
	_, _ = fmt.Fprintf(c.out, "  %-58s", what)
	if err := do(); err != nil {
		_, _ = fmt.Fprintln(c.out, "failed")
		return fmt.Errorf("%s: %w", what, err)
	}
	_, _ = fmt.Fprintf(c.out, "%6.1fs\n", time.Since(begin).Seconds())
	return nil
}
