// Package static makes pods of the manifests in a folder on the device: it reads and watches the folder,
// checks each file, and fills in what the API server would. It gives the result to whoever runs pods; how
// they are shown in the cluster is the server's business.
//
// As far as a device allows it is what the kubelet does with staticPodPath: one pod in each file, YAML or
// JSON, files that begin with a dot are ignored, and a file that is no pod is told of and does not count.
package static

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/staticpod"
)

const (
	// period is how often the folder is read though the system has told of no change, as the kubelet does it.
	period = 20 * time.Second
	// settle is how long after a change the folder is read: an editor may still be writing.
	settle = 200 * time.Millisecond
)

// Config of a Source.
type Config struct {
	// Dir is the folder. It need not exist.
	Dir string
	// Namespace is the only one that pods may be in.
	Namespace string
	// NodeName is appended to the names of the pods.
	NodeName string
	// Pods is called with all pods when they may have changed.
	Pods func([]*v1.Pod)
	// Refused is called for a file that is no usable pod, once for each error.
	Refused func(file string, err error)
}

// Source is a folder of manifests. It is not to be used concurrently.
type Source struct {
	config Config
	period time.Duration
	told   map[string]string // by file: what was told of it
}

// New returns a Source. Nothing is read before Read or Run.
func New(config Config) *Source {
	return &Source{config: config, period: period, told: map[string]string{}}
}

// Run reads the folder whenever it changes, until ctx ends.
func (s *Source) Run(ctx context.Context) {
	logger := klog.FromContext(ctx).WithName("static-pods")
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		logger.Error(err, "The folder of static pods cannot be watched, it is read from time to time", "period", s.period)
		watcher = &fsnotify.Watcher{} // its channels block for ever
	} else {
		defer func() { _ = watcher.Close() }()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watcher.Events:
			timer.Reset(settle)
		case err := <-watcher.Errors:
			logger.V(2).Info("The watch of the folder of static pods has lost something", "err", err)
			timer.Reset(settle)
		case <-timer.C:
			if err == nil { // it may have been made, or made anew, since
				_ = watcher.Add(s.config.Dir)
			}
			if err := s.Read(); err != nil {
				logger.Error(err, "The folder of static pods cannot be read: the pods stay as they are")
			}
			timer.Reset(s.period)
		}
	}
}

// Read reads the folder once. A folder that is not there has no pods; an error means that it is not known what
// is in it.
func (s *Source) Read() error {
	entries, err := os.ReadDir(s.config.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var pods []*v1.Pod
	seen := map[string]string{} // file by name of the pod
	refused := map[string]string{}
	for _, entry := range entries {
		file := entry.Name()
		if strings.HasPrefix(file, ".") {
			continue
		}
		pod, err := s.readFile(filepath.Join(s.config.Dir, file))
		switch {
		case errors.Is(err, errNoFile):
			continue
		case err != nil:
		case seen[pod.Name] != "":
			err = fmt.Errorf("%s makes a pod of the same name", seen[pod.Name])
		case len(pods) >= staticpod.MaxPods:
			err = fmt.Errorf("the device already has %d static pods", staticpod.MaxPods)
		}
		if err != nil {
			refused[file] = err.Error()
			if s.told[file] != err.Error() {
				s.config.Refused(file, err)
			}
			continue
		}
		seen[pod.Name] = file
		pods = append(pods, pod)
	}
	s.told = refused
	slices.SortFunc(pods, func(a, b *v1.Pod) int { return strings.Compare(a.Name, b.Name) })
	s.config.Pods(pods)
	return nil
}

// errNoFile says that something is not a regular file, or is gone.
var errNoFile = errors.New("not a file")

func (s *Source) readFile(path string) (*v1.Pod, error) {
	info, err := os.Stat(path) // a symbolic link leads to a file, as with mounted ConfigMaps
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.Mode().IsRegular()) {
		return nil, errNoFile
	} else if err != nil {
		return nil, err
	}
	data, err := diskfile.Read(path, staticpod.MaxSize)
	if err != nil {
		return nil, err
	}
	return Parse(data, path, s.config.Namespace, s.config.NodeName)
}
