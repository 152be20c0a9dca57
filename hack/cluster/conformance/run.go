// Package conformance runs upstream Kubernetes' unmodified end-to-end tests against a device: it
// makes the images that the tests want, brings a cluster with one device on containerd up, runs the
// suite that hack/conformance builds, and prints what came of it.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// Options say what to run.
type Options struct {
	// Cluster to bring up. Runtime, devices and images are chosen here.
	Cluster local.Options
	// Programs is the directory of what hack/conformance/build.sh builds.
	Programs string
	// Focus and Skip are regular expressions that choose among the tests, as Ginkgo has them. Without a
	// focus it is every test that applies to a device, see selection.
	Focus, Skip string
	// Processes is how many tests run at a time.
	Processes int
	// Seed is what the order of the tests follows from.
	Seed int
	// Timeout bounds the run.
	Timeout time.Duration
	// Report is the directory of the JUnit report and of the output of the tests.
	Report string
	// Keep leaves the cluster up.
	Keep bool
	Out  io.Writer
}

// kubeletPort is where tests look for a kubelet, without asking its Node.
const kubeletPort = 10250

// Run runs the tests. It returns an error if any failed.
func Run(ctx context.Context, o Options) (err error) {
	for _, path := range []*string{&o.Programs, &o.Report} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.Report, 0o755); err != nil {
		return err
	}
	names, err := o.imageNames(ctx)
	if err != nil {
		return err
	}
	images, _, err := makeImages(o.Programs, names)
	if err != nil {
		return err
	}
	o.Cluster.Devices, o.Cluster.Runtime, o.Cluster.Images = 1, local.RuntimeContainerd, images
	o.Cluster.NamespaceTaint = string(v1alpha1.NamespaceTaintNone)
	o.Cluster.KubeletPort = kubeletPort
	cluster, err := local.Up(ctx, o.Cluster)
	if err != nil {
		return err
	}
	if !o.Keep {
		defer func() {
			err = errors.Join(err, local.Down(context.WithoutCancel(ctx), cluster.Dir, false, o.Out))
		}()
	}
	if err := openPods(ctx, cluster.State()); err != nil {
		_, _ = fmt.Fprintf(o.Out, "Tests that call pods by their addresses will fail: %v\n", err)
	}
	return o.test(ctx, cluster)
}

// imageNames asks the suite for the images its tests refer to.
func (o *Options) imageNames(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, o.program("e2e.test"), "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("list the images of the tests: %w", err)
	}
	return strings.Fields(string(out)), nil
}

func (o *Options) program(name string) string { return filepath.Join(o.Programs, name) }

func (o *Options) test(ctx context.Context, cluster *local.Cluster) error {
	log, err := os.Create(filepath.Join(o.Report, "e2e.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	report := filepath.Join(o.Report, reportFile)
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args := append([]string{
		"--procs=" + strconv.Itoa(o.Processes), "--timeout=" + o.Timeout.String(), "--no-color", "--keep-going",
		"--seed=" + strconv.Itoa(o.Seed), "--output-dir=" + o.Report, "--json-report=" + reportFile, "--junit-report=junit.xml",
	}, o.selection()...)
	args = append(args, o.program("e2e.test"), "--",
		"--provider=local", "--kubeconfig="+cluster.Kubeconfig(), "--kubectl-path="+filepath.Join(cluster.Dir, "bin", "kubectl"),
		"--node-os-distro=debian", "--dump-logs-on-failure=false")
	cmd := exec.CommandContext(ctx, o.program("ginkgo"), args...)
	cmd.Env = cluster.Environ()
	cmd.Dir = o.Report
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	_, _ = fmt.Fprintf(o.Out, "Testing; the output is in %s.\n", log.Name())
	begin := time.Now()
	runErr := cmd.Run()
	result, err := readReport(report)
	if err != nil {
		return errors.Join(fmt.Errorf("the tests left no report, see %s: %w", log.Name(), runErr), err)
	}
	if err := result.write(filepath.Join(o.Report, "results.txt")); err != nil {
		return err
	}
	result.summarize(o.Out)
	_, _ = fmt.Fprintf(o.Out, "%s; every test is in %s\n", time.Since(begin).Round(time.Second), filepath.Join(o.Report, "results.txt"))
	if n := result.count(failed); n > 0 {
		return fmt.Errorf("%d tests failed", n)
	}
	if result.count(passed) == 0 {
		return errors.New("no test ran")
	}
	if runErr != nil {
		return fmt.Errorf("see %s: %w", log.Name(), runErr)
	}
	return nil
}
